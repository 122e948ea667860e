"""
Which layers are sharp?
=======================

The largest eigenvalue of each layer's diagonal block of the Hessian, for each group of classes.
"""

import sharpness

layers = sharpness.load_result("results/layers.nc")  # sharpness.eigenvalues(models, per_group=True, per_layer=True)
picture = layers.plot()
