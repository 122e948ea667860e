"""Algorithms on any symmetric linear operator given by its product with a vector."""
