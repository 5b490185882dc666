"""What a rank's events in a step depend on."""

from dataclasses import dataclass

from yolo.architecture import strides
from yolo.planner.cost.compute import LocalWork
from yolo.planner.cost.model_stats import Network
from yolo.recipe.schema.recipe import Recipe

SCALAR_BYTES = 4
"""Of a number that ranks agree on: a norm, a count of boxes."""

VOTE_BYTES = 3 * SCALAR_BYTES
"""The stability guard's: a step's loss, how many want to leave, and the bad steps that ranks found by themselves."""

MEETING_BYTES = 2 * SCALAR_BYTES
"""The same without the loss, after steps that ranks took alone."""


@dataclass(frozen=True, slots=True)
class PlanContext:
    """A recipe and its network on some ranks, and how long computing takes there."""

    recipe: Recipe
    network: Network
    work: LocalWork
    ranks: int
    is_nccl: bool
    steps: int
    """Of the whole run."""

    @property
    def matches_bytes(self) -> int:
        """The loop's own: matched boxes of each level."""
        return SCALAR_BYTES * len(strides(self.recipe.model.variant))

    @property
    def micro_steps(self) -> int:
        """Of a step: forward and backward passes before it updates the weights."""
        micro_steps = self.recipe.train.gradient_accumulation_steps
        return micro_steps
