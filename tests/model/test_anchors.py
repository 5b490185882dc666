import numpy as np
import pytest

from yolo.architecture import COCO_ANCHORS, COCO_ANCHORS_P6
from yolo.model.anchors import best_possible_recall, choose_anchors, fit_anchors


def _long_boxes(count: int = 200) -> np.ndarray:
    """Boxes that COCO's anchors do not fit: much wider than high."""
    generator = np.random.default_rng(0)
    widths = generator.uniform(200, 600, count)
    return np.stack((widths, widths / generator.uniform(8, 14, count)), axis=1)


def test_recall_is_the_share_of_boxes_near_an_anchor() -> None:
    boxes = [[10, 13], [39, 13], [41, 13], [2, 13]]
    assert best_possible_recall(boxes, [[10, 13]], 4.0) == 0.5


def test_recall_at_exactly_the_threshold_does_not_count() -> None:
    assert best_possible_recall([[40, 16]], [[10, 16]], 4.0) == 0


def test_recall_of_no_boxes_is_1() -> None:
    assert best_possible_recall(np.zeros((0, 2)), COCO_ANCHORS, 4.0) == 1


def test_a_box_without_area_finds_no_anchor() -> None:
    assert best_possible_recall([[0, 13]], COCO_ANCHORS, 4.0) == 0


def test_cocos_anchors_stay_where_they_fit() -> None:
    boxes = np.array(COCO_ANCHORS).reshape(-1, 2).repeat(5, axis=0)
    choice = choose_anchors(boxes, "n", 640, 4.0, seed=0)
    assert not choice.refitted
    assert choice.recall == 1
    assert choice.anchors.tolist() == np.array(COCO_ANCHORS).tolist()


def test_anchors_are_fitted_to_boxes_that_cocos_miss() -> None:
    boxes = _long_boxes()
    choice = choose_anchors(boxes, "n", 640, 4.0, seed=0)
    assert best_possible_recall(boxes, COCO_ANCHORS, 4.0) < 0.9
    assert choice.refitted
    assert choice.recall > 0.98
    assert choice.recall == best_possible_recall(boxes, choice.anchors, 4.0)


def test_fitted_anchors_ascend_by_area_within_the_image() -> None:
    anchors = fit_anchors(_long_boxes(), "n", 640, 4.0, seed=0)
    assert anchors.shape == (3, 3, 2)
    assert (np.diff(anchors.reshape(-1, 2).prod(axis=1)) >= 0).all()
    assert anchors.min() >= 2
    assert anchors.max() <= 640


def test_the_same_seed_fits_the_same_anchors() -> None:
    first, second = (fit_anchors(_long_boxes(), "n", 640, 4.0, seed=5) for _ in range(2))
    assert first.tolist() == second.tolist()


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9])
def test_few_boxes_still_give_nine_anchors(count: int) -> None:
    choice = choose_anchors(_long_boxes(count), "n", 640, 4.0, seed=0)
    assert choice.anchors.shape == (3, 3, 2)
    assert np.isfinite(choice.anchors).all()
    assert choice.recall >= best_possible_recall(_long_boxes(count), COCO_ANCHORS, 4.0)


def test_equal_boxes_still_give_nine_anchors() -> None:
    choice = choose_anchors([[500.0, 40.0]] * 50, "n", 640, 4.0, seed=0)
    assert choice.anchors.shape == (3, 3, 2)
    assert np.isfinite(choice.anchors).all()


@pytest.mark.parametrize("boxes", [_long_boxes(), _long_boxes(3)], ids=["many", "few"])
def test_a_variant_of_four_levels_gets_twelve_anchors(boxes: np.ndarray) -> None:
    choice = choose_anchors(boxes, "s6", 1280, 4.0, seed=0)
    assert choice.refitted
    assert choice.anchors.shape == (4, 3, 2)
    assert (np.diff(choice.anchors.reshape(-1, 2).prod(axis=1)) >= 0).all()
    fitting = choose_anchors(np.array(COCO_ANCHORS_P6).reshape(-1, 2), "n6", 1280, 4.0, seed=0)
    assert fitting.anchors.tolist() == np.array(COCO_ANCHORS_P6).tolist()


def test_fitted_anchors_that_are_no_better_are_not_taken() -> None:
    choice = choose_anchors(
        [[1.0, 0.0]] * 20, "n", 640, 4.0, seed=0
    )  # nothing fits a box without area
    assert not choice.refitted
    assert "no more" in choice.reason
