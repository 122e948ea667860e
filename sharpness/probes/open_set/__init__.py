"""Open-set evaluation: known test images and those of unknown classes, rejected below a threshold."""
