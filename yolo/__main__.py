"""`python -m yolo`."""

import sys

from yolo.cli import main

sys.exit(main())
