"""
Random perturbation
===================

The rise of the loss at one relative distance, with one dot per draw: the talk's motivation, here for few-shot classes.
"""

import sharpness

perturbed = sharpness.load_result("results/perturbation.nc")  # sharpness.random_perturbation(models, draws=10)
picture = perturbed.plot(of="few", radius=0.1)
