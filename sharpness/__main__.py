"""``python -m sharpness`` is the command ``sharpness``."""

import sys

from sharpness.cli import main

sys.exit(main())
