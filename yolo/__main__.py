"""The command `yolo`, also as `python -m yolo`."""

import sys


def main() -> int:
    """Run the command line; a package that is not installed is reported in one line."""
    try:
        from yolo.cli import main as run

        return run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "yolo"):
            raise
        print(
            f"{package}: {sys.executable} has no such package; `make setup` installs all packages into .venv: "
            "run .venv/bin/yolo",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    sys.exit(main())
