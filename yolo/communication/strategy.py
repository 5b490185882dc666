"""How ranks synchronise their steps: the interface of a strategy; its defaults leave everything to DeepSpeed.

`build_strategy` in `yolo/training/engine/build.py` chooses one. The trainer calls it at three places, in this order: after
a backward, after an optimizer step, at an epoch's end.

To add a way of averaging gradients:

1. its class in `reducers/` (in `optimizers/` if it exchanges momentum instead);
2. its name in `Reducer`, and in `only_for` of the settings that it uses: `yolo/recipe/schema/distributed.py`. The
   docstring of `reducer` there is its row in the documentation;
3. a line in `STRATEGIES`: `yolo/training/engine/build.py`;
4. its costs, its `fidelity` and its `learning_settings` in `STRATEGY_COSTS`: `yolo/planner/cost/strategies.py`. `yolo plan`,
   `yolo calibrate`, the benchmarks and the test that compares predicted with recorded messages then know it;
5. a recipe in `recipes/communication/`. `make configs` writes its DeepSpeed JSON and the reference of recipe keys.
   `make bench-accuracy` measures the AP that it keeps, and with `SET=--ship` hands it to the planner and the pages: until
   then no plan puts the strategy first;
6. a test with real ranks in `tests/training/`, whose fixture `run` trains through the launcher: what it learns against
   `reducer: deepspeed`, and its bytes. `checkpointing/test_resume.py` resumes each reducer by itself.

If it cannot work with some settings: a rule in `yolo/recipe/rules/communication.py`, with its evidence in
`tests/recipe/rules/against_deepspeed/`.
"""

from typing import Any, Protocol

from torch import nn


class DeepSpeedEngine(Protocol):
    """The part of DeepSpeed's engine that strategies use."""

    module: nn.Module
    optimizer: Any
    enable_backward_allreduce: bool
    """Whether the engine averages gradients after backward; it reads this at each step (0.19.8)."""

    def is_gradient_accumulation_boundary(self) -> bool:
        """Whether this micro batch is the last of its step."""


class SyncStrategy:
    """DeepSpeed averages the gradients; subclasses override what they do differently."""

    kind = "deepspeed"
    """Names the strategy in checkpoints: it must not change."""
    averages_gradients = True
    """Whether each step's gradient, and so its norm, is the mean over the ranks."""
    steps_since_sync = 0
    """Steps since all ranks had the same weights; 0 if they have."""
    has_gradient = True
    """Whether this rank's gradient contributed to the last step, as far as the strategy decides it."""

    @property
    def phase(self) -> str:
        """What is exchanged at present, in a few words; empty if it stays the same for the full run."""
        return ""

    @property
    def is_local_step(self) -> bool:
        """Whether this rank takes the next step without communication."""
        return False

    def plan(self, warmup_steps: int, steps: int) -> str:
        """Resolve `auto` settings, given the learning rate's warm-up steps and the run's steps.

        Returns a warning for the user, for example if the run is too short for the strategy; else an empty string.
        """
        return ""

    def reduce_gradients(self) -> None:
        """Run after each backward, before the engine's step; collective at the end of an accumulation.

        Under fp16, gradients are still multiplied by the loss scale, and so is error feedback of them.
        """

    def after_step(self) -> None:
        """Run after each optimizer step, also a skipped one; may be collective.

        A step is skipped, on all ranks, if its gradient is not finite or a spike: what was sent is lost then, but what
        error feedback kept is sent later. A non-finite value must not stay in error feedback.
        """

    def flush(self) -> None:
        """Make the weights equal on all ranks if they are not; collective."""

    def rank_state(self) -> dict[str, Any]:
        """State of this rank only. A checkpoint keeps it, so that a resumed run equals an uninterrupted one."""
        return {}

    def load_rank_state(self, state: dict[str, Any], is_own: bool = True) -> None:
        """Load what `rank_state` returned on the same rank.

        Tensors come on the CPU, and settings may have changed since: check shapes. If not `is_own`, the state is the first
        rank's from a run with another number of ranks: load what is equal on all ranks, and reset error feedback.
        """

    def on_weights_loaded(self) -> None:
        """Run after a checkpoint has replaced the weights."""
