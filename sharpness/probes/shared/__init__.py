"""Common parts of all probes: objectives from checkpoints, comparisons, unfinished work, costs."""
