"""Train a recipe with the baseline: `python -m yolo.bench.baseline --out run.json recipes/bccd.yaml data.root=...`."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from yolo.bench.baseline.training import train_plainly
from yolo.bench.command_line import recipe_parser
from yolo.bench.results import write_json
from yolo.errors import exit_code_of
from yolo.recipe import prepare


def main(arguments: Sequence[str] | None = None) -> int:
    """Train in this process and write the `PlainRun`; returns the exit code."""
    parser = recipe_parser("yolo.bench.baseline", __doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="JSON")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _train(options), "bench")


def _train(options: argparse.Namespace) -> None:
    recipe = prepare(options.recipe, options.overrides, 1, 1).resolved.recipe
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(recipe.cluster.threads_per_process)
    write_json(options.out, asdict(train_plainly(recipe, device)))


if __name__ == "__main__":
    sys.exit(main())
