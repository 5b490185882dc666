"""How long faster-coco-eval and pycocotools take for the same figures, and whether they are the same.

`python -m tests.evaluation.compare_libraries`
"""

import contextlib
import io
import time

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.evaluation.generated import generate
from yolo.evaluation import average_precision
from yolo.evaluation.detections import Detections, GroundTruth


def faster_stats(truth: GroundTruth, detections: tuple[Detections, ...]) -> np.ndarray:
    """COCO's 12 figures (12,) by the library that the evaluation uses."""
    judge = average_precision.judged(detections, truth, range(len(truth.class_names)))
    judge.summarize()
    return np.array(judge.stats[:12])


def pycocotools_stats(truth: GroundTruth, detections: tuple[Detections, ...]) -> np.ndarray:
    """COCO's 12 figures (12,) by COCO's own code; the box files are written by the book here."""
    annotations, results = [], []
    for image in truth.images:
        for box, kind, crowd, area in zip(
            image.boxes, image.classes, image.crowd, image.areas, strict=True
        ):
            left, top, right, bottom = (float(value) for value in box)
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image.image_id,
                    "category_id": int(kind),
                    "bbox": [left, top, width, height],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    for found in detections:
        for box, kind, score in zip(found.boxes, found.classes, found.scores, strict=True):
            left, top, right, bottom = (float(value) for value in box)
            results.append(
                {
                    "image_id": found.image_id,
                    "category_id": int(kind),
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(score),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image.image_id} for image in truth.images],
            "categories": [{"id": i, "name": name} for i, name in enumerate(truth.class_names)],
            "annotations": annotations,
        }
        coco.createIndex()
        judge = COCOeval(coco, coco.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def main() -> None:
    """Three runs each, in turns; the fastest counts, the slowest shows the spread."""
    for classes in (3, 20, 80):
        truth, detections = generate(2000, classes)
        count = sum(len(found) for found in detections)
        seconds: dict[str, list[float]] = {"faster-coco-eval": [], "pycocotools": []}
        stats = {}
        for _ in range(3):
            for name, compute in (
                ("faster-coco-eval", faster_stats),
                ("pycocotools", pycocotools_stats),
            ):
                started = time.perf_counter()
                stats[name] = compute(truth, detections)
                seconds[name].append(time.perf_counter() - started)
        difference = np.abs(stats["faster-coco-eval"] - stats["pycocotools"]).max()
        fast, slow = seconds["faster-coco-eval"], seconds["pycocotools"]
        print(
            f"{classes} classes, 2000 images, {count} detections: faster-coco-eval {min(fast):.2f}..{max(fast):.2f} s, "
            f"pycocotools {min(slow):.2f}..{max(slow):.2f} s, {min(slow) / min(fast):.1f} times as long; "
            f"largest difference of 12 figures {difference:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
