"""Directions in parameter space: random, named in files, from one model to another."""
