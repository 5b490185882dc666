"""What the benchmarks' commands share: arguments, the check for missing files, the progress bar."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich import progress

from yolo.data.location import missing_files
from yolo.errors import BenchError
from yolo.preflight.weights import unfit_weights
from yolo.recipe import ResolvedRecipe

Number = TypeVar("Number", int, float)


def recipe_parser(
    name: str, description: str | None, overrides_help: str | None = None
) -> argparse.ArgumentParser:
    """A parser for `python -m NAME RECIPE [section.key=value ...]`."""
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument("recipe", type=Path, help="the recipe's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help=overrides_help)
    return parser


def add_out(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder that results are written to."""
    parser.add_argument("--out", type=Path, default=Path("results"), help="default %(default)s")


def numbers(option: str, text: str, kind: Callable[[str], Number]) -> list[Number]:
    """The numbers of an option's list; raises BenchError for other text."""
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        name = "whole numbers" if kind is int else "numbers"
        raise BenchError(f"{option} {text}: expected {name} such as 16,32") from None


def check_files(resolved: ResolvedRecipe) -> None:
    """Raises BenchError with a line for each file of the recipe that is missing here, or of no use; hosts are emulated."""
    recipe = resolved.recipe
    if problems := [*missing_files(recipe.data), *unfit_weights(recipe.model)]:
        raise BenchError("\n".join(problems))


def bench_progress() -> progress.Progress:
    """A bar with the current measurement, the count, the time taken and the time left."""
    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeElapsedColumn())
    return progress.Progress("{task.description}", *columns, "left", progress.TimeRemainingColumn())
