"""What the benchmarks' commands share: arguments, the check for missing files, the progress bar."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from yolo.errors import BenchError
from yolo.preflight.local import missing_here
from yolo.recipe import ResolvedRecipe


def bench_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for `python -m NAME`."""
    return argparse.ArgumentParser(prog=f"python -m {name}", description=description)


def recipe_parser(
    name: str, description: str | None, overrides_help: str | None = None
) -> argparse.ArgumentParser:
    """A parser for `python -m NAME RECIPE [section.key=value ...]`."""
    parser = bench_parser(name, description)
    parser.add_argument("recipe", type=Path, help="the recipe's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=overrides_help)
    return parser


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder that results are written to."""
    parser.add_argument("--out", type=Path, default=Path("results"), help="default %(default)s")


def numbers(kind: type[int] | type[float]) -> Callable[[str], list[float]]:
    """An argparse type for a list such as 100,300."""

    def parse(text: str) -> list[float]:
        return [kind(word) for word in text.split(",")]

    parse.__name__ = f"list of {kind.__name__}"  # argparse's name for it in an error
    return parse


def check_files(resolved: ResolvedRecipe) -> None:
    """Raises BenchError with a line for each file of the recipe that is not on this machine."""
    if missing := list(missing_here(resolved)):
        raise BenchError("\n".join(missing))


def bench_progress() -> Progress:
    """A bar with the current measurement, the count, the time taken and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
