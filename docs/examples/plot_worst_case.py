"""
Worst case
==========

The rise of the loss after one step of ascent of length 0.05, as in SAM, for every class by itself.
"""

import sharpness

picture = sharpness.load_result("results/worst.nc").plot()  # sharpness.worst_case(models, 0.05)
