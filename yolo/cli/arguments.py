"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from yolo.errors import RecipeError


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value


def count(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, 1 or more")
    return int(text)


def command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], None],
    description: str,
) -> argparse.ArgumentParser:
    """Add a command; its help is the first sentence of its description."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=description.split(". ")[0], description=description
    )
    parser.set_defaults(run_command=run)
    return parser


def add_recipe(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """The words of a command that takes a recipe, or several, and overrides."""
    what = "recipes" if several else "a recipe"
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RECIPE" if several else "RECIPE [section.key=value]",
        help=f"{what} (YAML files), and overrides such as train.epochs=30",
    )


def add_world_size(parser: argparse.ArgumentParser) -> None:
    """For commands that compute `auto` values."""
    parser.add_argument(
        "--world-size",
        type=count,
        metavar="N",
        help="ranks to compute `auto` values for (default: as `cluster` says)",
    )


def recipes_and_overrides(options: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """The words told apart. Raises RecipeError where there is no recipe among them."""
    overrides = [word for word in options.words if "=" in word]
    recipes = [Path(word) for word in options.words if "=" not in word]
    if not recipes:
        raise RecipeError("no recipe named; expected a YAML file such as recipes/demo.yaml")
    return recipes, overrides


def one_recipe(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """The one recipe and its overrides. Raises RecipeError for several."""
    recipes, overrides = recipes_and_overrides(options)
    if len(recipes) > 1:
        raise RecipeError(
            f"expected one recipe, found {', '.join(map(str, recipes))}; an override is one word, section.key=value"
        )
    return recipes[0], overrides
