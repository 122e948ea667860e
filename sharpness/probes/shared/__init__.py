"""What all probes share: objectives from checkpoints, comparisons of several models, unfinished work, costs."""
