"""The stability guard: steps that would damage the weights are found before they are applied, on all ranks alike.

The ranks add up their shares of the loss in one small all-reduce before the last backward of a step. If the sum is not
finite, or far above its recent values, the loss becomes NaN on all ranks. Every strategy skips a step whose gradient is
not finite, so this is the one switch that works for all of them. On a GPU the host does not wait for it.
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
"""Steps that count as recent."""
LEAST_MEMORY = 30
"""With fewer recent steps, only non-finite values are anomalies."""
LEAST_DEVIATION = 0.15
"""In logarithms: with the default score, a spike is at least 5.9 times the median. The losses of small batches are skewed:
most are close together, and one in five is half as large again. With 0.05 (1.8 times), 7 of 100 short runs on clean images,
recorded without the guard, would have lost a good step of 1.9 to 2.6 times the median.
"""
NORMAL = 1.4826
"""Standard deviations per median absolute deviation, for a normal distribution."""


class SpikeDetector:
    """The recent values of a positive figure, and the limit above which a value is a spike.

    The limit is a robust z-score of the logarithm: the outliers that it is to find move neither the median nor the median
    absolute deviation (Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993).
    """

    def __init__(self, score: float, logs: Sequence[float] = ()) -> None:
        self.score = score
        self.logs = deque(logs, MEMORY)
        """Logarithms of the recent values."""

    @property
    def limit(self) -> float:
        """The largest value that is no spike; infinite while too few values are known."""
        if not self.score or len(self.logs) < LEAST_MEMORY:
            return math.inf
        median = statistics.median(self.logs)
        deviation = statistics.median(abs(each - median) for each in self.logs)
        return math.exp(median + self.score * NORMAL * max(deviation, LEAST_DEVIATION))

    def add(self, value: float) -> None:
        """Remember the value of a step that was applied."""
        if value > 0 and math.isfinite(value):
            self.logs.append(math.log(value))


class Anomaly(NamedTuple):
    """What was wrong with one step, or with some local steps."""

    reason: str
    was_applied: bool


class StabilityGuard:
    """Finds anomalies, and counts them.

    Each step calls `nan_gate`, and `observe` afterwards. In local steps a rank decides by itself; what it found is added
    up with the others' in the next synchronised step, or by `sync`.
    """

    def __init__(self, settings: StabilitySection, context: DistributedContext) -> None:
        self.settings = settings
        self.context = context
        self.losses = SpikeDetector(settings.spike_score)
        self.norms = SpikeDetector(settings.spike_score)
        self.local_losses = SpikeDetector(settings.spike_score)
        """For local steps, kept apart: what all ranks decide by must be the same on all."""
        self.recent_anomalies: deque[int] = deque()
        """The bad steps among the last `strike_window`, counted from 1."""
        self.skipped = 0
        """Steps skipped in the whole run; local steps count once per share of the batch."""
        self.rollbacks = 0
        self.calm_until = 0
        """The step after which the learning rate is the schedule's again."""
        self.lr_factor_then = 1.0
        self.should_stop = False
        """Whether any rank was asked to stop; the same on all."""
        self._gate = torch.zeros(4)
        """The sums over the ranks of loss, stop requests and local anomalies; whether the step is bad."""
        self._local_anomalies = 0
        """Bad local steps of this rank that the others do not know of yet."""

    # --- before and after a step --------------------------------------------------------------------------------

    def nan_gate(self, loss: torch.Tensor, wants_to_stop: bool, is_local: bool) -> torch.Tensor:
        """The factor for the step's last loss: 1, or NaN if the step must be skipped; a scalar tensor.

        `loss` is this rank's share of the loss (scalar). Collective; in a local step, among the ranks of an image.
        """
        extra = (float(wants_to_stop), float(self._local_anomalies))
        sums = torch.stack(
            [
                loss.detach().float(),
                *(loss.new_full((), number, dtype=torch.float32) for number in extra),
            ]
        )
        if self.context.world_size > 1:
            if is_local:  # assumes the other ranks' images as hard as its own
                sums = self.context.columns.sum(sums) * self.context.data_ranks
            else:
                dist.all_reduce(sums)
        is_bad = ~sums[0].isfinite() | (sums[0] > self._loss_detector(is_local).limit)
        self._gate = torch.cat([sums, is_bad.float().reshape(1)])
        return torch.where(is_bad, torch.nan, 1.0)

    def observe(
        self,
        step: int,
        is_applied: bool,
        has_gradient: bool,
        norm: float | None,
        is_local: bool,
        is_scaling: bool = False,
    ) -> list[Anomaly]:
        """Check a step after it was taken; returns its anomalies, the same on all ranks.

        `has_gradient`: whether this rank's gradient was part of the step; the 1-bit optimizers can do without it.
        `norm`: of the averaged gradient; None if unknown or a single rank's. `is_scaling`: fp16 searches for the
        largest loss scale by steps whose gradients overflow, which is no anomaly.
        """
        loss, stop_requests, local_anomalies, was_bad = self._gate.tolist()
        was_applied = is_applied and not was_bad and (has_gradient or not is_local)
        detector = self._loss_detector(is_local)
        reason = self._anomaly(loss, detector.limit, norm, was_applied or is_scaling)
        if was_applied:
            detector.add(loss)
            if norm is not None:
                self.norms.add(norm)
        if is_local:
            # All ranks of an image see the same; the first one counts.
            self._local_anomalies += reason is not None and self.context.columns.index == 0
            return []  # reported at the next sync
        self.skipped += not was_applied
        found = [Anomaly(reason, was_applied)] if reason else []
        anomalies = self._count(step, stop_requests, int(local_anomalies), found)
        self._local_anomalies += was_applied and not has_gradient  # reported with the next gate
        return anomalies

    def sync(self, step: int, wants_to_stop: bool, device: torch.device) -> list[Anomaly]:
        """Add up what the ranks found in local steps; collective."""
        sums = torch.tensor([float(wants_to_stop), float(self._local_anomalies)], device=device)
        if self.context.world_size > 1:
            dist.all_reduce(sums)
        stop_requests, local_anomalies = sums.tolist()
        return self._count(step, stop_requests, int(local_anomalies), [])

    def _count(
        self, step: int, stop_requests: float, local_anomalies: int, found: list[Anomaly]
    ) -> list[Anomaly]:
        """Count the anomalies since the last sync, which all ranks know now."""
        self._local_anomalies = 0
        self.should_stop = stop_requests > 0
        self.recent_anomalies.extend([step] * (local_anomalies + len(found)))
        while (
            self.recent_anomalies and self.recent_anomalies[0] <= step - self.settings.strike_window
        ):
            self.recent_anomalies.popleft()
        self.skipped += local_anomalies
        if local_anomalies:
            found.append(Anomaly(f"{local_anomalies} bad steps of single ranks", False))
        return found

    def _loss_detector(self, is_local: bool) -> SpikeDetector:
        return self.local_losses if is_local else self.losses

    def _anomaly(
        self, loss: float, loss_limit: float, norm: float | None, is_finite: bool
    ) -> str | None:
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if loss > loss_limit:
            return f"the loss is {loss:.4g}, above {loss_limit:.4g}"
        if norm is not None and math.isfinite(norm) and norm > (limit := self.norms.limit):
            return f"the gradient's norm is {norm:.4g}, above {limit:.4g}"
        return None if is_finite else "the gradient is not finite"

    # --- rollback -----------------------------------------------------------------------------------------------

    @property
    def must_roll_back(self) -> bool:
        """Whether skipping steps is not enough; the same on all ranks."""
        return len(self.recent_anomalies) >= self.settings.strikes

    @property
    def has_given_up(self) -> bool:
        """Whether rolling back is not enough either."""
        return self.rollbacks >= self.settings.rollbacks

    def on_rollback(self, step: int) -> None:
        """The run resumes after `step` with the weights of a checkpoint: lower the learning rate for a while."""
        self.lr_factor_then = self.lr_factor(step) * self.settings.lr_factor
        self.calm_until = step + self.settings.calm_steps
        self.rollbacks += 1
        self.recent_anomalies.clear()

    def lr_factor(self, step: int) -> float:
        """The factor for the schedule's learning rate at a step, counted from 0."""
        return self.lr_factor_then if step < self.calm_until else 1.0

    # --- checkpoints --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know to decide as this one would have; JSON."""
        return {
            "losses": list(self.losses.logs),
            "own_losses": list(self.local_losses.logs),
            "norms": list(self.norms.logs),
            "strikes": list(self.recent_anomalies),
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "calm_until": self.calm_until,
            "lr_factor_then": self.lr_factor_then,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; an empty state changes nothing."""
        if not state:
            return
        score = self.settings.spike_score
        self.losses = SpikeDetector(score, state["losses"])
        self.norms = SpikeDetector(score, state["norms"])
        self.local_losses = SpikeDetector(score, state["own_losses"])
        self.recent_anomalies = deque(state["strikes"])
        self.skipped, self.rollbacks = state["skipped"], state["rollbacks"]
        self.calm_until, self.lr_factor_then = state["calm_until"], state["lr_factor_then"]
