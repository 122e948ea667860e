"""
Surface
=======

The same plane as a surface.
"""

import sharpness

picture = sharpness.load_result("results/plane.nc").plot(of="few", kind="surface", quantity="rise")
