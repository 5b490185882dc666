"""What a test hands to the ranks of `tests/workers/observations.py`, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE = Path(__file__).parents[4] / "recipes" / "demo.yaml"
SMALL = (
    *("model.image_size=64", "train.global_batch=4", "data.augmentation.preset=none"),
    "cluster.threads_per_process=1",
)


@dataclass(frozen=True)
class Case:
    """A recipe, and the steps to be taken with it."""

    settings: tuple[str, ...] = ()
    json: Mapping[str, Any] = field(default_factory=dict)
    """Laid over DeepSpeed's configuration, where the recipe would write no such key."""
    steps: int = 2
    factors: tuple[tuple[int, int, float], ...] = ()
    """The loss of a rank at a step is multiplied by so much; (rank, step, factor)."""
    recipe: Path = BASE

    @property
    def overrides(self) -> tuple[str, ...]:
        """Of the recipe."""
        return (*SMALL, *self.settings) if self.recipe == BASE else self.settings

    def factor(self, rank: int, step: int) -> float:
        """What the loss is multiplied by."""
        return next((f for r, s, f in self.factors if (r, s) == (rank, step)), 1.0)


@dataclass(frozen=True)
class Observation:
    """What one rank saw of a case."""

    weights: str
    """A hash of all weights at the end; under stage 3 of the gathered ones."""
    moved: float
    """Length of the way that the weights went."""
    is_finite: bool
    taken: list[bool]
    """Whether each step changed the weights."""
    norm: float | None
    scale: float
    """Of the loss, under fp16."""
    traffic: dict[str, tuple[float, float]]
    """Calls and payload bytes of the last step, by the kind of collective."""
    wire_bytes: float
    """Sent by this rank in the last step."""
    early: dict[str, tuple[float, float]]
    """Those begun before the last step's last gradient was there."""
    waits_for_the_device: int
    """Synchronisations, and timers read: on a GPU each waits for its event."""
    kept_elements: int
    """Of the parameters, on this rank."""
    optimizer: str
    """The class of DeepSpeed's optimizer."""
    basic_optimizer: str
    """Of the one within."""
