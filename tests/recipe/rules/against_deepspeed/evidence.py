"""The forms of evidence for a rule: what is handed to started ranks, and what must be seen for the rule to be true."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.recipe.rules.against_deepspeed.case import Case, Observation
from tests.recipe.rules.against_deepspeed.pair import RanksDied, RanksOfTest, Refused

Settings = tuple[str, ...]
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Evidence:
    """A recipe that the rule finds something in, and what shows that it is right to."""

    name: str
    settings: Settings
    """Overrides of the demo recipe; the rule must have a finding on them."""
    holds: Callable[[RanksOfTest], None]
    """Asserts."""
    ranks: int = 2


def refused(name: str, settings: Settings, words: str, json: Json | None = None) -> Evidence:
    """DeepSpeed, torch or the engine raises, in these words (a regular expression)."""

    def holds(ranks: RanksOfTest) -> None:
        with pytest.raises(Refused, match=words):
            ranks(Case(settings, json or {}))

    return Evidence(name, settings, holds)


@dataclass(frozen=True)
class Setting:
    """Something set, as the recipe has it and, where the recipe would not write it down there, as DeepSpeed has it."""

    recipe: Settings
    json: Json = field(default_factory=dict)


def zero_setting(key: str, value: Any) -> Setting:
    """A key of `zero`, also under stages for which the recipe hands DeepSpeed none."""
    said = str(value).lower()
    return Setting((f"zero.{key}={said}",), {"zero_optimization": {key: value}})


def ignored(
    name: str,
    setting: Setting | Settings,
    where: Settings = (),
    works: Settings | None = None,
    ranks: int = 2,
    steps: int = 2,
) -> Evidence:
    """With and without the setting all weights are the same bit for bit, and so is the traffic.

    Under `works` they are not: the setting would have been seen.
    """
    setting = setting if isinstance(setting, Setting) else Setting(setting)

    def pair_of(base: Settings, started: RanksOfTest) -> tuple[Observation, Observation]:
        with_it = started(Case((*base, *setting.recipe), setting.json, steps))
        return with_it, started(Case(base, steps=steps))

    def holds(started: RanksOfTest) -> None:
        with_it, without = pair_of(where, started)
        assert with_it.weights == without.weights
        assert with_it.traffic == without.traffic
        assert with_it.early == without.early
        if works is not None:
            with_it, without = pair_of(works, started)
            assert (with_it.weights, with_it.traffic) != (without.weights, without.traffic)

    return Evidence(name, (*where, *setting.recipe), holds, ranks)


def hangs(name: str, settings: Settings, case: Case) -> Evidence:
    """A rank waits for a message that never comes."""

    def holds(ranks: RanksOfTest) -> None:
        with pytest.raises(RanksDied, match="Timed out|closed|timeout"):
            ranks(case)

    return Evidence(name, settings, holds)


def shown(name: str, settings: Settings, holds: Callable[[RanksOfTest], None]) -> Evidence:
    """Anything else."""
    return Evidence(name, settings, holds)


def sent(observation: Observation, *kinds: str) -> float:
    """Payload bytes of a step in collectives of some kinds (none: of all)."""
    return sum(
        size for kind, (_, size) in observation.traffic.items() if not kinds or kind in kinds
    )
