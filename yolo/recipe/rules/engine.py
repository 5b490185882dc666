"""The rule engine: small named functions look at a context and yield findings; they never change it.

The context is a resolved recipe for the rules of this package, and the inspected hosts for those of `yolo.preflight`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import TypeVar

from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.fields import Key
from yolo.recipe.schema.recipe import Recipe


class Severity(StrEnum):
    """Whether a finding stops the run before it is launched."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or has no effect, and what to do."""

    severity: Severity
    text: str
    key: Key = ()
    """The recipe key concerned, if there is one."""
    hosts: tuple[str, ...] = ()
    """The hosts concerned, if not all are."""


def error(text: str, *, key: str = "", hosts: Iterable[str] = ()) -> Finding:
    """A finding that cannot work."""
    return Finding(Severity.ERROR, text, split_key(key), tuple(hosts))


def warning(text: str, *, key: str = "", hosts: Iterable[str] = ()) -> Finding:
    """A finding that costs speed, is doubtful, or has no effect."""
    return Finding(Severity.WARNING, text, split_key(key), tuple(hosts))


def no_effect(why: str, *, key: str) -> Finding:
    """A warning that a key has no effect."""
    return warning(f"has no effect: {why}", key=key)


def split_key(key: str) -> Key:
    """Split a dotted key: `train.epochs` becomes ("train", "epochs")."""
    return tuple(key.split(".")) if key else ()


Context = TypeVar("Context")
Rule = Callable[[Context], Iterator[Finding]]


class RuleSet(list[Rule[Context]]):
    """All rules for one type of context, in the order in which they were added."""

    def add(self, rule: Rule[Context]) -> Rule[Context]:
        """Add a rule; use it as a decorator."""
        self.append(rule)
        return rule

    def check(self, context: Context) -> list[Finding]:
        """The findings of all rules, errors first."""
        findings = [finding for rule in self for finding in rule(context)]
        return sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR)


RULES: RuleSet[ResolvedRecipe] = RuleSet()
rule = RULES.add
RecipeCheck = Callable[[Recipe], Iterator[str]]
"""A rule that looks at the recipe alone, and yields what is wrong as text."""


def on(finding: Callable[..., Finding], *keys: str) -> Callable[[RecipeCheck], RecipeCheck]:
    """Add a rule whose texts are findings on these keys; `no_effect` only on those that the user has set."""

    def add(check: RecipeCheck) -> RecipeCheck:
        @RULES.add
        @wraps(check)
        def findings(resolved: ResolvedRecipe) -> Iterator[Finding]:
            for text in check(resolved.recipe):
                for key in keys:
                    if finding is not no_effect or resolved.is_set(split_key(key)):
                        yield finding(text, key=key)

        return check

    return add


def without_effect(resolved: ResolvedRecipe, why: str, *keys: str) -> Iterator[Finding]:
    """Yield a warning for each key that the user has set."""
    return (no_effect(why, key=key) for key in keys if resolved.is_set(split_key(key)))
