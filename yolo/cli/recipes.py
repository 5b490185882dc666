"""The commands that read recipes: `check`, `config`, `recipes` and `schema`."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from yolo.cli.arguments import (
    Commands,
    add_command,
    add_recipes,
    count,
    one_recipe,
    recipes_and_overrides,
)
from yolo.errors import RecipeError

if TYPE_CHECKING:
    from yolo.recipe import ResolvedRecipe

COLUMNS = (
    *("recipe", "model", "pixels", "batch", "epochs"),
    *("optimizer", "ZeRO", "precision", "what for"),
)
FILE_WIDTH = 200
"""Columns of the table of recipes if it is not printed to a terminal."""


def add_commands(commands: Commands) -> None:
    """Add the commands of this module."""
    check = add_command(commands, _check)
    add_recipes(check)
    check.add_argument(
        "--cluster",
        action="store_true",
        help="also check the hosts of one recipe (this machine, or by ssh the first cluster.nodes of cluster.hostfile)",
    )
    check.add_argument(
        "--json", action="store_true", help="with --cluster: print all figures as JSON"
    )
    check.add_argument(
        "--timeout",
        type=count,
        default=60,
        metavar="SECONDS",
        help="with --cluster: limit for each answer of a host (default 60)",
    )

    config = add_command(commands, _config)
    add_recipes(config)
    config.add_argument(
        "--json", action="store_true", help='print {"recipe": ..., "deepspeed": ...}'
    )
    config.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write each recipe's DeepSpeed JSON there"
    )

    recipes = add_command(commands, _recipes)
    recipes.add_argument("folder", nargs="?", type=Path, default=Path("recipes"))

    schema = add_command(commands, _schema)
    schema.add_argument(
        "--json", action="store_true", help="print the JSON Schema for editors instead"
    )


def _check(options: argparse.Namespace) -> None:
    """Check recipes without starting anything. The exit code is 0, or 2 if a recipe cannot work."""
    from yolo.communication.backends.known import summary
    from yolo.preflight.local import (
        inspect_data,
        missing_backend,
        missing_here,
        missing_hosts,
        unfit_here,
    )
    from yolo.recipe import prepare
    from yolo.recipe.resolve.hardware import visible_gpus

    if options.cluster:
        from yolo.preflight.command import check_hosts
        from yolo.tracking.console import CountProgress

        check_hosts(_only_recipe(options), options.timeout, options.json, CountProgress)
        return
    if options.json:
        raise RecipeError(
            "--json: expected --cluster with it; `yolo config --json` prints a recipe"
        )
    recipes, overrides = recipes_and_overrides(options)
    problems, fit = [], []
    for path in recipes:
        try:
            prepared = prepare(path, overrides, options.world_size)
        except RecipeError as error:
            problems.append(str(error))
            continue
        resolved = prepared.resolved
        found, unusable = inspect_data(resolved)
        for warning in (*prepared.warnings, *found):
            print(f"warning: {warning}")
        if unfit := [*unfit_here(resolved), *unusable]:
            problems += unfit
            continue
        cluster = resolved.recipe.cluster
        lacks = [*missing_here(resolved), missing_backend(cluster), missing_hosts(cluster)]
        missing = "; ".join(filter(None, lacks))
        suffix = f"; not on this machine: {missing}" if missing else ""
        fit.append(f"{path}: OK for {resolved.world_size} ranks{suffix}")
    if fit:
        print(f"backends: {summary(len(visible_gpus()))}", *fit, sep="\n")
    if problems:
        raise RecipeError("\n".join(problems))


def _only_recipe(options: argparse.Namespace, shows_warnings: bool = True) -> "ResolvedRecipe":
    from yolo.recipe import prepare

    prepared = prepare(*one_recipe(options), options.world_size)
    for warning in prepared.warnings if shows_warnings else ():
        print(f"warning: {warning}", file=sys.stderr)
    return prepared.resolved


def _config(options: argparse.Namespace) -> None:
    """Show every value of a recipe with its origin, and the DeepSpeed JSON."""
    from yolo.recipe import canonical_text, deepspeed_config
    from yolo.recipe.render.ds_configs import write_generated
    from yolo.recipe.render.resolved_yaml import arithmetic, effective_json, effective_yaml

    if options.write:
        recipes, _ = recipes_and_overrides(options)
        for path in write_generated(recipes, options.write):
            print(path)
        return
    resolved = _only_recipe(options, shows_warnings=not options.json)
    if options.json:
        print(json.dumps(effective_json(resolved), indent=2))
        return
    print(effective_yaml(resolved))
    print("\n".join(f"# {line}" for line in arithmetic(resolved)))
    print(f"\n# DeepSpeed's JSON\n{canonical_text(deepspeed_config(resolved.recipe))}", end="")


def _recipes(options: argparse.Namespace) -> None:
    """List all recipes, one line each."""
    from rich.console import Console
    from rich.table import Table

    from yolo.recipe import load_recipe

    paths = sorted(options.folder.rglob("*.yaml"))
    if not paths:
        raise RecipeError(f"{options.folder}: no recipes (*.yaml) there")
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for path in paths:
        recipe = load_recipe(path).recipe
        model, train = recipe.model, recipe.train
        cells = [path, f"yolov5{model.variant}", model.image_size, train.global_batch, train.epochs]
        cells += [recipe.optimizer.type, recipe.zero.stage, recipe.precision.dtype]
        table.add_row(*map(str, cells), recipe.description)
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(table)


def _schema(options: argparse.Namespace) -> None:
    """Print the reference page of all recipe keys."""
    from yolo.recipe.render.reference import json_schema, reference_page

    page = json.dumps(json_schema(), indent=2) + "\n" if options.json else reference_page()
    print(page, end="")
