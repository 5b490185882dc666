"""The planner's prediction for a run, beside what the run measured."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from yolo.errors import PlanError
from yolo.planner.hardware_catalog import profile_of
from yolo.planner.prediction import Data, Prediction, Step, predict
from yolo.recipe import ResolvedRecipe
from yolo.tracking.metric_names import plan_figures
from yolo.tracking.records import PredictedAndMeasured, StepMetrics
from yolo.training.checkpointing.train_state import StepTotals
from yolo.training.engine.distributed import DistributedContext
from yolo.training.engine.memory_stats import optimizer_bytes, parameter_bytes


@dataclass(frozen=True, slots=True)
class PlanComparison:
    """The prediction for the run, to be compared with it."""

    prediction: Prediction

    @classmethod
    def of(cls, resolved: ResolvedRecipe, data: Data) -> "PlanComparison | None":
        """The prediction for the profile that the recipe names; None if it names none.

        Raises PlanError if the profile cannot be read.
        """
        if resolved.recipe.cluster.profile is None:
            return None
        try:
            profile = profile_of(resolved)
        except PlanError as error:
            raise PlanError(f"cluster.profile: {error}") from error
        return cls(predict(profile, resolved.recipe, data))

    def figures(self, metrics: StepMetrics) -> dict[str, float]:
        """Predicted and measured figures of the steps just logged, by the names of their charts."""
        return plan_figures(_figures(self.prediction.at(metrics.step)), asdict(metrics.costs))

    def comparisons(
        self, total: StepTotals, engine: Any, context: DistributedContext
    ) -> list[PredictedAndMeasured]:
        """The step's parts and bytes, as means over the whole run, and memory."""
        predicted, costs = self.prediction, total.mean()
        mean = Step.mean(predicted.phases)
        figures = _figures(mean)
        exposed, wait = costs.exposed_communication_seconds, costs.data_wait_seconds
        computing = mean.compute_seconds + mean.codec_seconds
        computed = costs.step_seconds - exposed - wait
        rows = [
            ("step", "seconds", figures["step_seconds"], costs.step_seconds),
            ("computing_and_packing", "seconds", computing, computed),
            ("exposed_communication", "seconds", figures["exposed_communication_seconds"], exposed),
            ("data_wait", "seconds", figures["data_wait_seconds"], wait),
            ("sent_by_a_rank", "bytes", figures["wire_bytes"], costs.wire_bytes),
            ("parameters", "bytes", predicted.memory.parameters, parameter_bytes(engine.module)),
            ("optimizer", "bytes", predicted.memory.optimizer, optimizer_bytes(engine.optimizer)),
        ]
        if context.device.type == "cuda":
            peak = float(torch.cuda.max_memory_allocated(context.device))
            rows.append(("memory_at_its_fullest", "bytes", predicted.memory.total, peak))
        return [PredictedAndMeasured(*row) for row in rows]


def _figures(predicted: Step) -> dict[str, float]:
    return {
        "step_seconds": predicted.step_seconds,
        "exposed_communication_seconds": predicted.exposed_seconds + predicted.straggler_seconds,
        "data_wait_seconds": predicted.data_wait_seconds,
        "wire_bytes": predicted.wire_bytes,
    }


def as_json(comparisons: Sequence[PredictedAndMeasured]) -> dict[str, dict[str, Any]]:
    """For summary.json."""
    return {
        each.what: {k: v for k, v in asdict(each).items() if k != "what"} for each in comparisons
    }
