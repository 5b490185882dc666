"""An evaluation as JSON, for `yolo eval --json`."""

from dataclasses import asdict

from yolo.evaluation.metrics import RECALLS, Metrics


def metrics_to_json(metrics: Metrics) -> dict[str, object]:
    """All figures by name; what could not be measured is null."""
    return {
        "ap": metrics.ap,
        "ap50": metrics.ap50,
        "ap75": metrics.ap75,
        "ap_small": metrics.ap_small,
        "ap_medium": metrics.ap_medium,
        "ap_large": metrics.ap_large,
        "ar100": metrics.ar100,
        "images": metrics.images,
        "boxes": metrics.boxes,
        "detections": metrics.detections,
        "per_class": [asdict(found) for found in metrics.per_class],
        "pr_curve": {
            "iou": 0.5,
            "recall": RECALLS.round(2).tolist(),
            "precision": {curve.name: curve.precision.tolist() for curve in metrics.curves},
            "mean_precision": metrics.mean_curve.precision.tolist() if metrics.mean_curve else None,
        },
        "confusion_matrix": {
            "labels": list(metrics.confusion.labels),
            "rows": "true",
            "columns": "predicted",
            "counts": metrics.confusion.counts.tolist(),
        },
    }
