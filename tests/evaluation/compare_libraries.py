"""Compare the time of faster-coco-eval and pycocotools for the same figures, and the figures.

`python -m tests.evaluation.compare_libraries`
"""

import argparse
import time

import numpy as np

from yolo.bench.baseline.evaluation import coco_figures
from yolo.bench.speed.generated import generate
from yolo.evaluation import coco_ap
from yolo.evaluation.detections import Detections, GroundTruth


def faster_stats(truth: GroundTruth, detections: tuple[Detections, ...]) -> np.ndarray:
    """COCO's 12 figures (12,), by the evaluation's library."""
    evaluator = coco_ap.run_coco_eval(detections, truth, range(len(truth.class_names)))
    evaluator.summarize()
    return np.array(evaluator.stats[:12])


def main() -> None:
    """Three runs each, in turns; the fastest counts, the slowest shows the spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="default %(default)s")
    images = parser.parse_args().images
    for classes in (3, 20, 80):
        truth, detections = generate(images, classes)
        count = sum(len(found) for found in detections)
        seconds: dict[str, list[float]] = {"faster-coco-eval": [], "pycocotools": []}
        stats = {}
        for _ in range(3):
            for name, compute in (
                ("faster-coco-eval", faster_stats),
                ("pycocotools", coco_figures),
            ):
                started = time.perf_counter()
                stats[name] = compute(truth, detections)
                seconds[name].append(time.perf_counter() - started)
        difference = np.abs(stats["faster-coco-eval"] - stats["pycocotools"]).max()
        fast, slow = seconds["faster-coco-eval"], seconds["pycocotools"]
        print(
            f"{classes} classes, {images} images, {count} detections: faster-coco-eval {min(fast):.2f}..{max(fast):.2f} s, "
            f"pycocotools {min(slow):.2f}..{max(slow):.2f} s, {min(slow) / min(fast):.1f} times as long; "
            f"largest difference of 12 figures {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
