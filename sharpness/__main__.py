"""Run the command line with ``python -m sharpness``."""

import sys

from sharpness.cli import main

sys.exit(main())
