"""The one call from a file to a recipe that may be launched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import RecipeError
from yolo.recipe.load.merge import load_recipe
from yolo.recipe.resolve.resolve import ResolvedRecipe, resolve
from yolo.recipe.rules import communication, core, passthrough  # noqa: F401  each adds its rules
from yolo.recipe.rules.engine import RULES, Finding, Severity


@dataclass(frozen=True, slots=True)
class PreparedRecipe:
    """A resolved recipe that no rule objects to, and the rules' warnings as lines."""

    resolved: ResolvedRecipe
    warnings: tuple[str, ...]


def prepare(
    path: Path | str,
    overrides: Sequence[str] = (),
    world_size: int | None = None,
    local_world_size: int | None = None,
) -> PreparedRecipe:
    """Read, validate and resolve a recipe for `world_size` ranks, so many of them on a node (none: as `cluster` says).

    Raises RecipeError with one line for each thing that is wrong.
    """
    resolved = resolve(load_recipe(path, overrides), world_size, local_world_size)
    findings = [finding for each in RULES for finding in each(resolved)]
    errors = [_line(resolved, item) for item in findings if item.severity is Severity.ERROR]
    if errors:
        raise RecipeError("\n".join(errors))
    return PreparedRecipe(resolved, tuple(_line(resolved, item) for item in findings))


def _line(resolved: ResolvedRecipe, finding: Finding) -> str:
    return f"{resolved.loaded.place(finding.key)}: {'.'.join(finding.key)}: {finding.text}"
