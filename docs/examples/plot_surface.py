"""
Surface
=======

The loss over the plane as a 3D surface.
"""

import sharpness

picture = sharpness.load_result("results/plane.nc").plot(of="few", kind="surface", quantity="rise")
