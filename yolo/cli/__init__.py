"""The command line: parse, call one function, print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from yolo.cli.arguments import (
    add_recipe,
    add_world_size,
    command,
    count,
    one_recipe,
    recipes_and_overrides,
    share,
)
from yolo.cli.plan import add_calibrate, add_plan
from yolo.cli.shard import add_shard
from yolo.cli.weights import add_export, add_import
from yolo.errors import RecipeError, exit_code_of

RECIPES = Path("recipes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 when the user has something to put right."""
    parser = argparse.ArgumentParser(
        prog="python -m yolo",
        description="Train YOLOv5 with DeepSpeed from a short recipe.",
        epilog="`python -m yolo COMMAND --help` explains a command. Overrides look like train.epochs=30.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        _add_check,
        _add_config,
        _add_recipes,
        _add_schema,
        add_plan,
        add_calibrate,
        add_shard,
        _add_train,
        _add_eval,
        _add_detect,
        add_import,
        add_export,
    ):
        add(commands)
    options = _parsed(parser, arguments)
    run: Callable[[argparse.Namespace], None] = options.run_command
    return exit_code_of(lambda: run(options), options.command)


def _parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Overrides may stand anywhere, also behind options, where argparse does not look for them."""
    options, left = parser.parse_known_args(arguments)
    overrides = [word for word in left if "=" in word and not word.startswith("-")]
    if len(overrides) < len(left) or (overrides and not hasattr(options, "words")):
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    if overrides:
        options.words += overrides
    return options


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "say whether recipes can work, without starting anything. Exits with 0, or with 2 where one cannot."
    parser = command(commands, "check", _check, text)
    add_recipe(parser, several=True)
    add_world_size(parser)
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="also look at the hosts of one recipe (this machine, or the first cluster.nodes of cluster.hostfile by ssh)",
    )
    parser.add_argument("--json", action="store_true", help="with --cluster: all figures as JSON")
    parser.add_argument(
        "--timeout",
        type=count,
        default=60,
        metavar="SECONDS",
        help="with --cluster: for each answer of a host (default 60)",
    )


def _check(options: argparse.Namespace) -> None:
    from yolo.preflight.local import missing_here, missing_hosts, unfit_here
    from yolo.recipe import prepare

    if options.cluster:
        _check_cluster(options)
        return
    if options.json:
        raise RecipeError(
            "--json: expected --cluster with it; `yolo config --json` prints a recipe"
        )
    recipes, overrides = recipes_and_overrides(options)
    problems = []
    for path in recipes:
        try:
            prepared = prepare(path, overrides, options.world_size)
        except RecipeError as error:
            problems.append(str(error))
            continue
        for warning in prepared.warnings:
            print(f"warning: {warning}")
        resolved = prepared.resolved
        if unfit := list(unfit_here(resolved)):
            problems += unfit
            continue
        lacks = [*missing_here(resolved), missing_hosts(resolved.recipe.cluster)]
        missing = "; ".join(filter(None, lacks))
        needs = f"; not on this machine: {missing}" if missing else ""
        print(f"{path}: good for {resolved.world_size} ranks{needs}")
    if problems:
        raise RecipeError("\n".join(problems))


def _check_cluster(options: argparse.Namespace) -> None:
    from yolo.preflight.command import check_hosts
    from yolo.recipe import prepare
    from yolo.tracking.console import CountProgress

    recipe, overrides = one_recipe(options)
    prepared = prepare(recipe, overrides, options.world_size)
    for warning in prepared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    check_hosts(prepared.resolved, options.timeout, options.json, CountProgress)


def _add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show every value of a recipe and where it came from, and DeepSpeed's JSON"
    parser = command(commands, "config", _config, text)
    add_recipe(parser, several=True)
    add_world_size(parser)
    parser.add_argument(
        "--json", action="store_true", help='print {"recipe": ..., "deepspeed": ...}'
    )
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write each recipe's DeepSpeed JSON there"
    )


def _config(options: argparse.Namespace) -> None:
    from yolo.recipe import canonical_text, deepspeed_config, prepare
    from yolo.recipe.deepspeed.config import write_generated
    from yolo.recipe.render.resolved_yaml import arithmetic, effective_json, effective_yaml

    if options.write:
        recipes, _ = recipes_and_overrides(options)
        for path in write_generated(recipes, options.write):
            print(path)
        return
    recipe, overrides = one_recipe(options)
    prepared = prepare(recipe, overrides, options.world_size)
    if options.json:
        print(json.dumps(effective_json(prepared.resolved), indent=2))
        return
    for warning in prepared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(effective_yaml(prepared.resolved))
    print("\n".join(f"# {line}" for line in arithmetic(prepared.resolved)))
    print(
        f"\n# DeepSpeed's JSON\n{canonical_text(deepspeed_config(prepared.resolved.recipe))}",
        end="",
    )


def _add_recipes(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(commands, "recipes", _recipes, "list all recipes, one line each")
    parser.add_argument("folder", nargs="?", type=Path, default=RECIPES)


def _recipes(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from yolo.recipe import load_recipe

    table = Table(box=None, pad_edge=False)
    for heading in (
        "recipe",
        "model",
        "pixels",
        "batch",
        "epochs",
        "optimizer",
        "ZeRO",
        "precision",
        "what for",
    ):
        table.add_column(heading)
    paths = sorted(options.folder.rglob("*.yaml"))
    if not paths:
        raise RecipeError(f"{options.folder}: no recipes (*.yaml) there")
    for path in paths:
        recipe = load_recipe(path).recipe
        table.add_row(
            str(path),
            f"yolov5{recipe.model.variant}",
            str(recipe.model.image_size),
            str(recipe.train.global_batch),
            str(recipe.train.epochs),
            recipe.optimizer.type,
            str(recipe.zero.stage),
            recipe.precision.dtype,
            recipe.description,
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _add_schema(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(commands, "schema", _schema, "print the reference page of all recipe keys")
    parser.add_argument(
        "--json", action="store_true", help="print the JSON Schema for editors instead"
    )


def _schema(options: argparse.Namespace) -> None:
    from yolo.recipe.render.reference import json_schema, reference_page

    page = json.dumps(json_schema(), indent=2) + "\n" if options.json else reference_page()
    print(page, end="")


def _add_train(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "train a recipe through the deepspeed launcher. Prints the launcher's command first."
    parser = command(commands, "train", _train, text)
    add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the command and stop")


def _train(options: argparse.Namespace) -> None:
    from yolo.errors import LaunchError
    from yolo.launch.command import launch_of
    from yolo.launch.supervisor import run_with_restarts
    from yolo.preflight.local import missing_here, unfit_here
    from yolo.recipe import prepare
    from yolo.training.checkpointing.run_directory import choose_run

    recipe, overrides = one_recipe(options)
    resolved = prepare(recipe, overrides).resolved  # warnings are the run's to tell
    run = choose_run(resolved.name, resolved.recipe.checkpoint.resume)
    if options.dry_run:
        print(launch_of(resolved, recipe, overrides, run))
        return
    missing = list(missing_here(resolved, resumes=run.newest_checkpoint is not None))
    if resolved.recipe.cluster.nodes == 1:
        missing += unfit_here(resolved)
        if missing:
            raise LaunchError("\n".join(missing))
    run_with_restarts(resolved, recipe, overrides, run)


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(
        commands, "eval", _eval, "measure the average precision of weights on a data set"
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="a run's weights/best.safetensors"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="a COCO annotation file beside its image folder, or a data.yaml",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there as JSON")
    parser.add_argument("--batch", type=count, default=16, help="images at once (default 16)")


def _eval(options: argparse.Namespace) -> None:
    from yolo.evaluation.commands import evaluate_weights
    from yolo.tracking.console import CountProgress

    for line in evaluate_weights(
        options.weights, options.data, options.json, options.batch, CountProgress
    ):
        print(line)


def _add_detect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = command(commands, "detect", _detect, "draw what weights detect in images")
    parser.add_argument("images", nargs="+", type=Path, help="images, or folders of them")
    parser.add_argument(
        "--weights", type=Path, required=True, help="a run's weights/best.safetensors"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/detect"),
        help="folder for pictures and detections.json",
    )
    parser.add_argument("--confidence", type=share, default=0.25, help="least score (default 0.25)")
    parser.add_argument(
        "--iou", type=share, default=0.45, help="overlap of one object's boxes (default 0.45)"
    )


def _detect(options: argparse.Namespace) -> None:
    from yolo.evaluation.commands import detect_and_draw
    from yolo.tracking.console import CountProgress

    for line in detect_and_draw(
        options.weights,
        options.images,
        options.out,
        options.confidence,
        options.iou,
        CountProgress,
    ):
        print(line)
