"""The name of each figure in metrics.jsonl and in Weights & Biases, with its unit."""

from collections.abc import Mapping, Sequence

from yolo.evaluation.metrics import Metrics
from yolo.tracking.records import PredictedAndMeasured, StepMetrics

X_AXES = {
    **dict.fromkeys(("train/*", "speed/*", "data/*", "communication/*", "plan/*"), "step"),
    "validation/*": "epoch",
}
"""The x axis of each group of figures."""


def step_figures(result: StepMetrics) -> dict[str, float]:
    """Figures of training steps by name, without a gradient norm that was not measured."""
    costs = result.costs
    figures = {
        "train/loss": result.loss,
        "train/loss_box": result.loss_box,
        "train/loss_obj": result.loss_obj,
        "train/loss_cls": result.loss_cls,
        "train/learning_rate": result.lr,
        "train/skipped_steps": result.skipped,
        "speed/images_per_second": costs.images_per_second,
        "data/wait_seconds_per_step": costs.data_wait_seconds,
        "communication/seconds_per_step": costs.communication_seconds,
        "communication/exposed_seconds_per_step": costs.exposed_communication_seconds,
        "communication/payload_bytes_per_step": costs.payload_bytes,
        "communication/wire_bytes_per_step": costs.wire_bytes,
    }
    for kind, traffic in costs.traffic_by_kind.items():
        figures |= {
            f"communication/{kind}/calls_per_step": traffic.calls,
            f"communication/{kind}/wire_bytes_per_step": traffic.wire_bytes,
            f"communication/{kind}/seconds_per_step": traffic.seconds,
            f"communication/{kind}/exposed_seconds_per_step": traffic.exposed_seconds,
        }
    if result.gradient_norm is not None:
        figures["train/gradient_norm"] = result.gradient_norm
    return figures


def evaluation_figures(result: Metrics) -> dict[str, float]:
    """Figures of an evaluation by name, without those that could not be measured."""
    figures = {
        "validation/AP": result.ap,
        "validation/AP50": result.ap50,
        "validation/AP75": result.ap75,
        "validation/AP_small": result.ap_small,
        "validation/AP_medium": result.ap_medium,
        "validation/AP_large": result.ap_large,
        "validation/AR100": result.ar100,
    }
    return {name: value for name, value in figures.items() if value is not None}


def plan_figures(predicted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Predicted and measured figures under names that sort side by side."""
    figures = {f"plan/{what}_predicted": value for what, value in predicted.items()}
    return figures | {
        f"plan/{what}_measured": measured[what] for what in predicted if what in measured
    }


def comparison_rows(comparisons: Sequence[PredictedAndMeasured]) -> list[tuple[str, str]]:
    """Rows of a table of names and values."""
    return [(each.label, str(each)) for each in comparisons]
