"""The command `shard`."""

from __future__ import annotations

import argparse

from yolo.cli.arguments import command, count, recipes_and_overrides
from yolo.errors import RecipeError

SHARD_MB = 256


def add_shard(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`yolo shard`."""
    text = (
        "write a recipe's data as shards, from which training streams them. "
        "Then train with data.format=shards data.root=OUT data.train=train data.val=val."
    )
    parser = command(commands, "shard", _shard, text)
    # One list: argparse would take an override behind them for OUT.
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RECIPE OUT [section.key=value]",
        help="a recipe (YAML file), the folder for train/ and val/, and overrides such as data.root=/path/to/data",
    )
    parser.add_argument("--split", choices=("train", "val"), help="one of the two (default: both)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--shard-mb",
        type=count,
        default=SHARD_MB,
        metavar="MB",
        help=f"about so large (default {SHARD_MB})",
    )
    size.add_argument(
        "--shards",
        type=count,
        metavar="N",
        help="so many of the training split; best a multiple of ranks x data.workers, each of which reads its own",
    )


def _shard(options: argparse.Namespace) -> None:
    from yolo.data.shards.writer import shard_split, shards_line
    from yolo.recipe import prepare
    from yolo.tracking.console import CountProgress

    paths, overrides = recipes_and_overrides(options)
    if len(paths) != 2:
        raise RecipeError(
            f"expected a recipe and the folder to write to, found {', '.join(map(str, paths))}; "
            "as in `python -m yolo shard recipes/demo.yaml data/demo-shards`"
        )
    recipe, out = paths
    resolved = prepare(recipe, overrides).resolved
    for split in ("train", "val") if options.split is None else (options.split,):
        shards = options.shards if split == "train" or options.split == "val" else None
        index, problems = shard_split(
            resolved.recipe, split, out, options.shard_mb, shards, CountProgress
        )
        for line in shards_line(index, out / split, problems):
            print(line)
