"""
Worst case
==========

The rise of the loss after one ascent step of length 0.05, as in SAM, separately for every class.
"""

import sharpness

picture = sharpness.load_result("results/worst.nc").plot()  # sharpness.worst_case(models, 0.05)
