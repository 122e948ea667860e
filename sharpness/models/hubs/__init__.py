"""Networks of libraries by name: ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME_OR_FOLDER``; one file a library."""

from sharpness.models.hubs.hub import Architecture, Hub, Published, hub_of

__all__ = ["Architecture", "Hub", "Published", "hub_of"]
