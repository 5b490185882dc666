from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.compare_libraries import faster_stats
from yolo.bench.baseline.evaluation import coco_figures
from yolo.bench.speed.generated import generate
from yolo.data.dataset import ImageRecord
from yolo.evaluation.coco_ap import measure
from yolo.evaluation.detections import Detections, GroundTruth


def truth_of(*boxes: list[float], classes: list[int], crowd: list[bool]) -> GroundTruth:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    areas = (array[:, 2:] - array[:, :2]).prod(axis=1)
    kinds, is_crowd = np.array(classes, dtype=np.int64), np.array(crowd, dtype=bool)
    image = ImageRecord(1, Path("a.jpg"), 640, 640, array, kinds, is_crowd, areas)
    return GroundTruth(("cat", "dog"), (image,))


def found(*rows: tuple[list[float], float, int]) -> tuple[Detections, ...]:
    return (
        Detections(
            1,
            np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4),
            np.array([row[1] for row in rows], dtype=np.float32),
            np.array([row[2] for row in rows], dtype=np.int64),
        ),
    )


@pytest.mark.parametrize(("classes", "seed"), [(1, 0), (3, 1), (30, 2)])
def test_all_twelve_figures_are_those_of_pycocotools(classes: int, seed: int) -> None:
    truth, detections = generate(60, classes, max_detections=150, crowd_share=0.1, seed=seed)
    expected = coco_figures(truth, detections)
    np.testing.assert_allclose(faster_stats(truth, detections), expected, rtol=0, atol=1e-6)

    metrics = measure(detections, truth)
    ours = [metrics.ap, metrics.ap50, metrics.ap75]
    ours += [metrics.ap_small, metrics.ap_medium, metrics.ap_large, metrics.ar100]
    np.testing.assert_allclose(ours, expected[[0, 1, 2, 3, 4, 5, 8]], rtol=0, atol=1e-6)


def test_perfect_detections_have_an_ap_of_one() -> None:
    truth, _ = generate(20, 4, crowd_share=0)
    perfect = tuple(
        Detections(i.image_id, i.boxes, np.ones(len(i.boxes), np.float32), i.classes)
        for i in truth.images
    )
    metrics = measure(perfect, truth)
    assert metrics.ap == pytest.approx(1)
    assert metrics.ar100 == pytest.approx(1)
    for one in metrics.per_class:
        assert (one.precision, one.recall, one.confidence) == (pytest.approx(1), 1.0, 1.0)


def test_no_detections_have_an_ap_of_zero() -> None:
    metrics = measure(found(), truth_of([0, 0, 10, 10], classes=[0], crowd=[False]))
    assert (metrics.ap, metrics.ap50, metrics.ar100) == (0, 0, 0)
    assert (metrics.per_class[0].recall, metrics.per_class[0].confidence) == (0.0, None)


def test_what_the_truth_cannot_measure_is_none() -> None:
    metrics = measure(found(), truth_of([0, 0, 10, 10], classes=[0], crowd=[False]))
    assert metrics.ap_small == 0
    assert metrics.ap_medium is None
    assert metrics.ap_large is None
    assert metrics.per_class[1].ap is None
    assert [curve.name for curve in metrics.curves] == ["cat"]


@pytest.mark.parametrize("rows", [(), (([0.0, 0.0, 5.0, 5.0], 0.9, 0),)])
def test_without_any_box_in_the_truth_every_figure_is_none(rows: tuple) -> None:
    metrics = measure(found(*rows), truth_of(classes=[], crowd=[]))
    assert metrics.ap is None
    assert metrics.ar100 is None
    assert metrics.mean_curve is None
    assert metrics.boxes == 0


def test_one_wrong_detection_above_the_right_one_halves_the_ap() -> None:
    truth = truth_of([0, 0, 100, 100], classes=[0], crowd=[False])
    rows = found(([200, 200, 300, 300], 0.9, 0), ([0, 0, 100, 100], 0.8, 0))
    metrics = measure(rows, truth)
    assert metrics.ap == pytest.approx(0.5)
    assert metrics.per_class[0].precision == pytest.approx(0.5)
    assert metrics.per_class[0].recall == 1.0
    assert metrics.per_class[0].confidence == pytest.approx(0.8)


def test_an_overlap_of_62_percent_counts_up_to_the_third_threshold() -> None:
    truth = truth_of([0, 0, 100, 100], classes=[0], crowd=[False])
    metrics = measure(found(([0, 0, 100, 62], 0.9, 0)), truth)
    assert metrics.ap == pytest.approx(0.3)  # 0.50, 0.55, 0.60 of ten
    assert metrics.ap50 == pytest.approx(1)
    assert metrics.ap75 == 0


def test_detections_in_a_crowd_are_neither_hits_nor_misses() -> None:
    truth = truth_of([0, 0, 50, 50], [100, 100, 300, 300], classes=[0, 0], crowd=[False, True])
    in_crowd = [([110.0 + 40 * n, 110, 140 + 40 * n, 150], 0.95, 0) for n in range(4)]
    metrics = measure(found(*in_crowd, ([0, 0, 50, 50], 0.5, 0)), truth)
    assert metrics.ap == pytest.approx(1)
    assert metrics.boxes == 1
    assert metrics.confusion.counts.sum() == 1


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    measure(*reversed(generate(5, 2)))
    assert capfd.readouterr() == ("", "")
