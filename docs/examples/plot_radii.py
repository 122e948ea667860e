"""
Rise by radius
==============

Mean and standard deviation over draws at every radius: does the order of two models hold at other distances?
"""

import sharpness

perturbed = sharpness.load_result("results/perturbation.nc")
picture = perturbed.plot(kind="radii", of="few")
