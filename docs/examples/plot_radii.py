"""
Rise over the radius
====================

Mean and standard deviation over draws at every radius: does the ranking of two models depend on the distance?
"""

import sharpness

perturbed = sharpness.load_result("results/perturbation.nc")
picture = perturbed.plot(kind="radii", of="few")
