"""What the launcher starts on every rank: `deepspeed --module yolo.train --recipe R [section.key=value ...]`."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

SILENT_SECONDS = 5.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a recipe on this rank; returns the exit code."""
    parser = argparse.ArgumentParser(prog="yolo.train", description=__doc__)
    parser.add_argument("--recipe", type=Path, required=True, help="the recipe's YAML file")
    parser.add_argument(
        "--run",
        type=Path,
        help="the run's folder; `latest` beside it points at it once training starts (default: runs/<recipe>/<UTC time>)",
    )
    parser.add_argument("--local_rank", type=int, help="given by the launcher")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_args(arguments)

    from yolo.errors import YoloError
    from yolo.training.session import train  # torch and DeepSpeed take seconds to import

    try:
        train(options.recipe, options.overrides, options.run)
    except YoloError as error:
        if os.environ.get("RANK", "0") != "0":
            # Most errors meet all ranks alike. The first speaks at once, and the launcher then stops the others; one
            # that fails alone still comes to speak.
            time.sleep(SILENT_SECONDS)
        print(f"yolo: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
