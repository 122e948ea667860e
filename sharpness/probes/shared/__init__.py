"""Shared parts of all probes: objectives from checkpoints, comparisons of several models, unfinished work, costs."""
