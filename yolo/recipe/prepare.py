"""The one call from a file to a recipe that can be launched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import RecipeError
from yolo.recipe.load.merge import LoadedRecipe, load_recipe
from yolo.recipe.resolve.resolve import ResolvedRecipe, resolve
from yolo.recipe.rules import communication, core, passthrough, sharding  # noqa: F401  each adds its rules
from yolo.recipe.rules.engine import RULES, Finding, Severity


@dataclass(frozen=True, slots=True)
class PreparedRecipe:
    """A resolved recipe that no rule rejects, and the rules' warnings as lines."""

    resolved: ResolvedRecipe
    warnings: tuple[str, ...]
    world_size: int | None
    local_world_size: int | None
    """The ranks that it was prepared for, as in `prepare`."""

    def with_values(
        self, *overrides: str, world_size: int | None = None, local_world_size: int | None = None
    ) -> "PreparedRecipe":
        """Put overrides such as `precision.dtype=bf16` on top and prepare for these ranks (None: as before).

        The file is not read again. Raises RecipeError with one line for each mistake.
        """
        loaded = self.resolved.loaded.with_values(*overrides)
        ranks = world_size or self.world_size
        return prepare_loaded(loaded, ranks, local_world_size or self.local_world_size)


def prepare(
    path: Path | str,
    overrides: Sequence[str] = (),
    world_size: int | None = None,
    local_world_size: int | None = None,
) -> PreparedRecipe:
    """Read, validate and resolve a recipe for `world_size` ranks, `local_world_size` per node (None: as `cluster` says).

    Raises RecipeError with one line for each mistake.
    """
    return prepare_loaded(load_recipe(path, overrides), world_size, local_world_size)


def prepare_loaded(
    loaded: LoadedRecipe, world_size: int | None = None, local_world_size: int | None = None
) -> PreparedRecipe:
    """`prepare` for a recipe that is already loaded."""
    resolved = resolve(loaded, world_size, local_world_size)
    findings = RULES.check(resolved)
    errors = [_line(resolved, item) for item in findings if item.severity is Severity.ERROR]
    if errors:
        raise RecipeError("\n".join(errors))
    warnings = tuple(_line(resolved, item) for item in findings)
    return PreparedRecipe(resolved, warnings, world_size, local_world_size)


def _line(resolved: ResolvedRecipe, finding: Finding) -> str:
    return f"{resolved.loaded.place(finding.key)}: {'.'.join(finding.key)}: {finding.text}"
