"""The name of each figure in the log and in Weights & Biases; the unit is in it."""

from yolo.tracking.records import EvaluationResult, StepResult

X_AXES = (
    ("train/*", "step"),
    ("speed/*", "step"),
    ("data/*", "step"),
    ("communication/*", "step"),
    ("plan/*", "step"),
    ("validation/*", "epoch"),
)
"""Which figure the others are drawn over."""


def step_figures(result: StepResult) -> dict[str, float]:
    """Figures of training steps by name; a gradient norm that was not measured is left out."""
    figures = {
        "train/loss": result.loss_box + result.loss_obj + result.loss_cls,
        "train/loss_box": result.loss_box,
        "train/loss_obj": result.loss_obj,
        "train/loss_cls": result.loss_cls,
        "train/learning_rate": result.lr,
        "train/skipped_steps": result.skipped,
        "speed/images_per_second": result.images_per_second,
        "data/wait_seconds_per_step": result.data_wait_seconds,
        "communication/seconds_per_step": result.communication_seconds,
        "communication/exposed_seconds_per_step": result.exposed_communication_seconds,
        "communication/payload_bytes_per_step": result.payload_bytes,
        "communication/wire_bytes_per_step": result.wire_bytes,
    }
    for kind, traffic in result.traffic_by_kind.items():
        figures |= {
            f"communication/{kind}/calls_per_step": traffic.calls,
            f"communication/{kind}/wire_bytes_per_step": traffic.wire_bytes,
            f"communication/{kind}/seconds_per_step": traffic.seconds,
            f"communication/{kind}/exposed_seconds_per_step": traffic.exposed_seconds,
        }
    if result.gradient_norm is not None:
        figures["train/gradient_norm"] = result.gradient_norm
    return figures


def evaluation_figures(result: EvaluationResult) -> dict[str, float]:
    """Figures of an evaluation by name; what could not be measured is left out."""
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
