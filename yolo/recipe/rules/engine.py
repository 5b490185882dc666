"""What a rule finds in a recipe, and the list of all rules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from yolo.recipe.load.yaml_source import Key
from yolo.recipe.resolve.resolve import ResolvedRecipe


class Severity(StrEnum):
    """Whether a finding stops the run."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or without effect, where, and what to do."""

    severity: Severity
    key: Key
    text: str


Rule = Callable[[ResolvedRecipe], Iterator[Finding]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Add a function to the rules."""
    RULES.append(function)
    return function


def error(key: str, text: str) -> Finding:
    """What cannot work."""
    return Finding(Severity.ERROR, tuple(key.split(".")), text)


def warning(key: str, text: str) -> Finding:
    """What costs speed or does nothing."""
    return Finding(Severity.WARNING, tuple(key.split(".")), text)


def without_effect(resolved: ResolvedRecipe, keys: tuple[str, ...], why: str) -> Iterator[Finding]:
    """A warning for each of the keys that somebody wrote down."""
    for key in keys:
        if resolved.is_set(tuple(key.split("."))):
            yield warning(key, f"has no effect: {why}")
