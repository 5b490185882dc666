"""`python -m yolo`."""

import sys

from yolo.cli import main

try:
    sys.exit(main())
except ModuleNotFoundError as error:
    package = (error.name or "").partition(".")[0]
    if package in ("", "yolo"):
        raise
    print(
        f"{package}: {sys.executable} has no such package; `make setup` puts all that is needed into .venv: "
        "call .venv/bin/python -m yolo",
        file=sys.stderr,
    )
    sys.exit(2)
