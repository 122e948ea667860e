"""
Spectral density
================

The whole spectrum of the rarest class, by stochastic Lanczos quadrature. The width of smoothing can be changed without
new products.
"""

import sharpness

density = sharpness.load_result("results/density.nc")  # sharpness.spectral_density(models, per_class=True)
picture = density.plot(of="9")
