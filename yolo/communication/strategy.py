"""How the steps that ranks compute become one: the interface of a strategy, and the two that need no code of their own.

A strategy is chosen in `training/engine.py`. The loop calls it at three places, in this order: gradients are computed,
a step was taken, an epoch is over.
"""

from typing import Any

from yolo.communication.optimizers.flat_optimizer import FlatOptimizer


class SyncStrategy:
    """Leaves everything to DeepSpeed; the others say what they do instead."""

    kind = "deepspeed"
    """Whose state a checkpoint holds."""
    averages_gradients = True
    """Whether each step's gradient, and so its norm, is the ranks' mean."""

    @property
    def steps_since_sync(self) -> int:
        """Steps since all ranks had the same weights; 0 when they have."""
        return 0

    @property
    def phase(self) -> str:
        """What is exchanged at present, where that changes in the course of a run; a few words."""
        return ""

    def plan(self, warmup_steps: int, steps: int) -> str:
        """Settle what is `auto`, given the steps of the learning rate's warm-up and of the whole run.

        Returns what the user should know of it: a strategy whose time never comes; else nothing.
        """
        return ""

    @property
    def is_local_step(self) -> bool:
        """Whether the next step is one that this rank takes without hearing of the others'."""
        return False

    @property
    def has_gradient(self) -> bool:
        """Whether this rank's own gradient had a part in the step just made, as far as the strategy decides it."""
        return True

    def finish_gradients(self) -> None:
        """Called after each backward, before the engine's step; collective at an accumulation's end."""

    def step_taken(self) -> None:
        """Called after each optimizer step, also one that was left out; may be collective."""

    def flush(self) -> None:
        """Make weights the same on all ranks where they are not; collective."""

    def rank_state(self) -> dict[str, Any]:
        """What this rank alone knows; a checkpoint keeps it, so that a resumed run equals one that never stopped."""
        return {}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """Take up what `rank_state` returned on the same rank.

        Not `is_own`: on the first of another number of ranks. What is the same on all ranks is taken from it, and error
        feedback begins anew.
        """

    def weights_loaded(self) -> None:
        """Called after a checkpoint's weights replaced those that this began with."""


class OptimizerExchange(SyncStrategy):
    """The optimizer exchanges momentum itself."""

    averages_gradients = False

    def __init__(self, optimizer: FlatOptimizer) -> None:
        self.optimizer = optimizer
        self.kind = type(optimizer).__name__

    @property
    def steps_since_sync(self) -> int:
        """See `SyncStrategy.steps_since_sync`."""
        return self.optimizer.steps_since_sync

    @property
    def phase(self) -> str:
        """See `SyncStrategy.phase`."""
        return self.optimizer.phase

    @property
    def is_local_step(self) -> bool:
        """See `SyncStrategy.is_local_step`."""
        return self.optimizer.is_local_step

    @property
    def has_gradient(self) -> bool:
        """See `SyncStrategy.has_gradient`: one that is not finite has none, and the others' step is taken all the same."""
        return self.optimizer.has_gradient

    def plan(self, warmup_steps: int, steps: int) -> str:
        """See `SyncStrategy.plan`."""
        return self.optimizer.plan(warmup_steps, steps)

    def flush(self) -> None:
        """See `SyncStrategy.settle`."""
        self.optimizer.flush()

    def rank_state(self) -> dict[str, Any]:
        """See `SyncStrategy.rank_state`."""
        return self.optimizer.rank_state()

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """See `SyncStrategy.load_rank_state`."""
        self.optimizer.load_rank_state(state, is_own)
