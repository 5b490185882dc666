"""Arguments that several commands share, and the parsing of overrides."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from yolo.errors import RecipeError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What `add_subparsers` returns."""
OVERRIDES = "[section.key=value ...]"


class _HelpFormatter(argparse.HelpFormatter):
    """Prints the metavar of recipes and overrides once; argparse repeats that of `nargs="+"`."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.dest == "words":
            return str(action.metavar)
        return super()._format_args(action, default_metavar)


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0 to 1")
    return value


def count(text: str) -> int:
    """An integer, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, 1 or more")
    return int(text)


def add_command(
    commands: Commands, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """Add a command named like its function; the function's docstring is its help."""
    text = " ".join((run.__doc__ or "").split())
    parser: argparse.ArgumentParser = commands.add_parser(
        run.__name__.strip("_"),
        help=text.split(". ")[0].removesuffix("."),
        description=text,
        formatter_class=_HelpFormatter,
    )
    parser.set_defaults(run_command=run, parser=parser)
    return parser


def add_words(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    """Add recipes and overrides as one list: argparse would take an override for another positional argument."""
    parser.add_argument(
        "words",
        nargs="+",
        metavar=f"{metavar} {OVERRIDES}",
        help=f"{text}, and overrides such as train.epochs=30",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add one recipe with overrides."""
    add_words(parser, "RECIPE", "a recipe (YAML file)")


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """Add recipes with overrides, and the number of ranks to compute `auto` values for."""
    add_words(parser, "RECIPE ...", "recipes (YAML files)")
    parser.add_argument(
        "--world-size",
        type=count,
        metavar="N",
        help="ranks to compute `auto` values for (default: from the recipe's cluster section)",
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line. Overrides may follow options too, where argparse does not accept them."""
    options, unknown = parser.parse_known_args(arguments)
    takes_overrides = hasattr(options, "words")
    overrides = [word for word in unknown if "=" in word and not word.startswith("-")]
    if len(overrides) < len(unknown) or (overrides and not takes_overrides):
        hint = _hint(unknown, options.parser, takes_overrides)
        options.parser.error(
            f"unrecognized arguments: {' '.join(unknown)}.{hint}".removesuffix(".")
        )
    if overrides:
        options.words += overrides
    return options


def _hint(unknown: Sequence[str], parser: argparse.ArgumentParser, takes_overrides: bool) -> str:
    """For `--epochs=3` or `--epochs 3`, the override that sets a recipe key of this name; else the nearest option."""
    from yolo.recipe.did_you_mean import FAMILIAR, nearest

    option = next((word for word in unknown if word.startswith("--")), "")
    name, _, value = option.removeprefix("--").replace("-", "_").partition("=")
    after = unknown[unknown.index(option) + 1 :] if option else ()
    value = value or next((word for word in after[:1] if not word.startswith("-")), "VALUE")
    names = (name, FAMILIAR.get(name.lower()))
    keys = sorted(key for key in _recipe_keys() if key[-1] in names) if takes_overrides else []
    settings = " or ".join(f"{'.'.join(key)}={value}" for key in keys)
    if settings:
        return f" Recipe keys are set without dashes: write {settings}"
    return nearest(option.partition("=")[0], parser._option_string_actions) if option else ""


def _recipe_keys(section: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    from yolo.recipe.load.validation_errors import schema_at

    for name in schema_at(section).get("properties", {}):
        yield (*section, name)
        yield from _recipe_keys((*section, name))


def recipes_and_overrides(options: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Split the words into recipes and overrides. Raises RecipeError if there is no recipe among them."""
    overrides = [word for word in options.words if "=" in word]
    recipes = [Path(word) for word in options.words if "=" not in word]
    if not recipes:
        raise RecipeError("no recipe named; expected a YAML file such as recipes/demo.yaml")
    return recipes, overrides


def one_recipe(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """The recipe and its overrides. Raises RecipeError for several recipes."""
    recipes, overrides = recipes_and_overrides(options)
    if len(recipes) > 1:
        raise RecipeError(
            f"expected one recipe, found {', '.join(map(str, recipes))}; an override is one word, section.key=value"
        )
    return recipes[0], overrides
