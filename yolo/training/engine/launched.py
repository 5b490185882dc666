"""What the launcher tells a rank, and the recipe that it trains. Needs no torch."""

import os
from collections.abc import Sequence
from pathlib import Path

from yolo.errors import LaunchError
from yolo.recipe import PreparedRecipe, prepare


def world_size_from_launcher() -> int:
    """How many processes the launcher started.

    Raises LaunchError if there was no launcher.
    """
    try:
        return int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise LaunchError(
            "yolo.train is started by a launcher: `yolo train RECIPE`, or "
            "`deepspeed --module yolo.train --recipe RECIPE`"
        ) from error


def local_world_size_from_launcher() -> int | None:
    """How many processes the launcher (DeepSpeed's or torchrun) started on this machine; None if unknown."""
    size = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or ""
    return int(size) if size.isdecimal() and int(size) else None


def prepare_on_rank(recipe: Path, overrides: Sequence[str]) -> PreparedRecipe:
    """Prepare a recipe for the ranks that the launcher started; to be called before DeepSpeed is imported.

    DeepSpeed then takes the recipe's accelerator: by itself it takes a GPU that it finds. Raises YoloError for anything
    that the user can fix.
    """
    prepared = prepare(
        recipe, overrides, world_size_from_launcher(), local_world_size_from_launcher()
    )
    if prepared.resolved.recipe.cluster.accelerator == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    return prepared
