"""The stability guard: steps that would spoil the weights are found before they are taken, by all ranks alike.

The ranks add up their shares of the loss in one small all-reduce before the last backward of a step. Where the sum is
not finite, or far above what it was lately, the loss becomes NaN on all ranks: each strategy leaves out a step whose
gradient is not finite, so that this is the one switch that all of them know. On a GPU nothing waits for it.
"""

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import deepspeed.comm as dist
import torch

from yolo.recipe.schema.train import StabilitySection
from yolo.training.engine.distributed import DistributedContext

MEMORY = 100
"""Steps that "lately" means."""
LEAST_MEMORY = 30
"""Before there are so many, only what is not finite is bad."""
LEAST_DEVIATION = 0.15
"""Of logarithms: with the default score a spike is at least 5.9 times the median. The losses of small batches are skewed:
most lie close together, and one in five is half as large again. With 0.05 (1.8 times), 7 of 100 short runs on clean images,
recorded without the guard, would have lost a good step of 1.9 to 2.6 times the median.
"""
NORMAL = 1.4826
"""Standard deviations in a median absolute deviation, for normally distributed figures."""


class SpikeDetector:
    """What a positive figure was lately, and from where on one is a spike.

    The robust z-score of its logarithm: median and median absolute deviation do not move with the outliers that they are
    to find (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993).
    """

    def __init__(self, score: float, seen: Sequence[float] = ()) -> None:
        self.score = score
        self.seen = deque(seen, MEMORY)

    @property
    def limit(self) -> float:
        """The largest figure that is no spike; infinite while too little was seen."""
        if not self.score or len(self.seen) < LEAST_MEMORY:
            return math.inf
        middle = statistics.median(self.seen)
        deviation = statistics.median(abs(each - middle) for each in self.seen)
        return math.exp(middle + self.score * NORMAL * max(deviation, LEAST_DEVIATION))

    def take_in(self, figure: float) -> None:
        """Remember the figure of a step that was taken."""
        if figure > 0 and math.isfinite(figure):
            self.seen.append(math.log(figure))


class Anomaly(NamedTuple):
    """Of one step, or of some that ranks took alone."""

    words: str
    was_taken: bool


class StabilityGuard:
    """Judges steps, and counts the bad ones.

    After `vote` and the step itself, `taken` is called. Ranks that step alone judge for themselves, and add up what they
    found with the vote of their next step in common, or when they `meet`.
    """

    def __init__(self, settings: StabilitySection, ranks: DistributedContext) -> None:
        self.settings = settings
        self.ranks = ranks
        self.losses = SpikeDetector(settings.spike_score)
        self.norms = SpikeDetector(settings.spike_score)
        self.own_losses = SpikeDetector(settings.spike_score)
        """Of the steps that this rank took alone: what all judge by must be the same on all."""
        self.recent_anomalies: deque[int] = deque()
        """The steps of the bad ones among the last `strike_window`, counted from 1."""
        self.skipped = 0
        """Steps left out, in the whole run; of those that ranks take alone, each rank's."""
        self.rollbacks = 0
        self.calm_until = 0
        """The step after which the learning rate is the schedule's again."""
        self.lr_factor_then = 1.0
        self.should_stop = False
        """Whether any rank was asked to leave; the same on all."""
        self._vote = torch.zeros(4)
        self._found_alone = 0
        """Bad steps of this rank that the others have not heard of."""

    # --- before and after a step ----------------------------------------------------------------------------------

    def nan_gate(self, loss: torch.Tensor, wants_to_leave: bool, is_alone: bool) -> torch.Tensor:
        """What to multiply the step's last loss with: 1, or NaN where the step must not be taken; a scalar.

        `loss` is this rank's share of the loss (scalar); collective unless it steps alone.
        """
        besides = (float(wants_to_leave), float(self._found_alone))
        vote = torch.stack(
            [
                loss.detach().float(),
                *(loss.new_full((), number, dtype=torch.float32) for number in besides),
            ]
        )
        if self.ranks.world_size > 1:
            if is_alone:
                vote *= self.ranks.world_size  # takes the others' images for as hard as its own
            else:
                dist.all_reduce(vote)
        is_bad = ~vote[0].isfinite() | (vote[0] > self._usual_losses(is_alone).limit)
        self._vote = torch.cat([vote, is_bad.float().reshape(1)])
        return torch.where(is_bad, torch.nan, 1.0)

    def observe(
        self,
        step: int,
        was_applied: bool,
        had_part: bool,
        norm: float | None,
        is_alone: bool,
        is_scaling: bool = False,
    ) -> list[Anomaly]:
        """Judge a step after it; returns what was wrong, as all ranks know it.

        `had_part` says whether this rank's gradient was in the step: the 1-bit optimizers take one without it. `norm` is the averaged gradient's; None where it is not known or a rank's own. `is_scaling`: fp16 looks for the
        largest loss scale that works by steps whose gradients overflow, which is no fault.
        """
        loss, wanting_to_leave, found_alone, was_bad = self._vote.tolist()
        was_taken = was_applied and not was_bad and (had_part or not is_alone)
        usual = self._usual_losses(is_alone)
        wrong = self._what_is_wrong(loss, usual.limit, norm, was_taken or is_scaling)
        if was_taken:
            usual.take_in(loss)
            if norm is not None:
                self.norms.take_in(norm)
        if is_alone:
            self._found_alone += wrong is not None
            return []  # told when ranks meet
        self.skipped += not was_taken
        found = [Anomaly(wrong, was_taken)] if wrong else []
        faults = self._together(step, wanting_to_leave, int(found_alone), found)
        self._found_alone += was_taken and not had_part  # told with the next vote
        return faults

    def sync(self, step: int, wants_to_leave: bool, device: torch.device) -> list[Anomaly]:
        """Add up what ranks that stepped alone found, now that they are together again; collective."""
        both = torch.tensor([float(wants_to_leave), float(self._found_alone)], device=device)
        if self.ranks.world_size > 1:
            dist.all_reduce(both)
        wanting_to_leave, found_alone = both.tolist()
        return self._together(step, wanting_to_leave, int(found_alone), [])

    def _together(
        self, step: int, wanting_to_leave: float, found_alone: int, found: list[Anomaly]
    ) -> list[Anomaly]:
        """Count what all ranks know now: the faults since they were last together."""
        self._found_alone = 0
        self.should_stop = wanting_to_leave > 0
        self.recent_anomalies.extend([step] * (found_alone + len(found)))
        while (
            self.recent_anomalies and self.recent_anomalies[0] <= step - self.settings.strike_window
        ):
            self.recent_anomalies.popleft()
        self.skipped += found_alone
        if found_alone:
            found.append(Anomaly(f"{found_alone} bad steps of single ranks", False))
        return found

    def _usual_losses(self, is_alone: bool) -> SpikeDetector:
        return self.own_losses if is_alone else self.losses

    def _what_is_wrong(
        self, loss: float, loss_limit: float, norm: float | None, is_finite: bool
    ) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if loss > loss_limit:
            return f"the loss is {loss:.4g}, above {loss_limit:.4g}"
        if norm is not None and math.isfinite(norm) and norm > (limit := self.norms.limit):
            return f"the gradient's norm is {norm:.4g}, above {limit:.4g}"
        return None if is_finite else "the gradient is not finite"

    # --- what follows -----------------------------------------------------------------------------------------------

    @property
    def must_roll_back(self) -> bool:
        """Whether leaving steps out is not enough; the same on all ranks."""
        return len(self.recent_anomalies) >= self.settings.strikes

    @property
    def has_given_up(self) -> bool:
        """Whether going back is not enough either."""
        return self.rollbacks >= self.settings.rollbacks

    def rolled_back(self, step: int) -> None:
        """The run goes on after `step` with the weights of a checkpoint."""
        self.lr_factor_then = self.lr_factor(step) * self.settings.lr_factor
        self.calm_until = step + self.settings.calm_steps
        self.rollbacks += 1
        self.recent_anomalies.clear()

    def lr_factor(self, step: int) -> float:
        """What the schedule's learning rate of a step, counted from 0, is multiplied with."""
        return self.lr_factor_then if step < self.calm_until else 1.0

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a resumed run must know to judge as this one would have; JSON."""
        return {
            "losses": list(self.losses.seen),
            "own_losses": list(self.own_losses.seen),
            "norms": list(self.norms.seen),
            "strikes": list(self.recent_anomalies),
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "calm_until": self.calm_until,
            "lr_factor_then": self.lr_factor_then,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave; nothing where it is empty."""
        if not state:
            return
        self.losses = SpikeDetector(self.settings.spike_score, state["losses"])
        self.norms = SpikeDetector(self.settings.spike_score, state["norms"])
        self.own_losses = SpikeDetector(self.settings.spike_score, state["own_losses"])
        self.recent_anomalies = deque(state["strikes"])
        self.skipped, self.rollbacks = state["skipped"], state["rollbacks"]
        self.calm_until, self.lr_factor_then = state["calm_until"], state["lr_factor_then"]
