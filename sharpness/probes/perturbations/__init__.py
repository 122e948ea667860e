"""Probes of the loss at displaced weights: random and worst-case displacements, the characteristic radius."""
