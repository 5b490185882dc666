import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import yolo.model.nms as nms
from yolo.model.nms import non_maximum_suppression

# Few values, so that ties, equal boxes, boxes without area and overlaps of exactly the threshold are common.
place = st.integers(0, 12).map(float)
side = st.sampled_from([0.0, 1.0, 2.0, 4.0, 8.0])
score = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
anything = st.sampled_from([0.5, 3.0, math.nan, math.inf, -math.inf])
row = st.tuples(place, place, side, side, score, score, score)
odd_row = st.tuples(*[anything] * 7)
images = st.lists(st.lists(st.one_of(row, row, row, odd_row), max_size=14), min_size=1, max_size=3)


@settings(max_examples=80, deadline=None)
@given(
    images,
    st.sampled_from([0.0, 0.2, 0.5]),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([1, 3, 300]),
    st.booleans(),
    st.sampled_from([2, 5, 256]),
)
def test_suppression_equals_the_plain_greedy_algorithm(
    rows: list, confidence: float, iou: float, max_detections: int, multi_label: bool, block: int
) -> None:
    longest = max(len(image) for image in rows)
    empty = [(0.0,) * 7]
    padded = [image + empty * (longest - len(image)) for image in rows]
    predictions = torch.tensor(padded, dtype=torch.float64).view(len(rows), longest, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nms, "BLOCK", {"cpu": block})  # several blocks even for few boxes
        found = non_maximum_suppression(predictions, confidence, iou, max_detections, multi_label)
    expected = [_greedy(image, confidence, iou, max_detections, multi_label) for image in padded]
    assert [image.tolist() for image in found] == expected


def test_suppression_of_many_random_boxes_equals_the_plain_greedy_algorithm() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(2, 400, 7, generator=generator, dtype=torch.float64)
    predictions[..., :4] *= torch.tensor([100, 100, 30, 30])
    found = non_maximum_suppression(predictions, 0.1, 0.3, 1000)
    expected = [_greedy(image, 0.1, 0.3, 1000, True) for image in predictions.tolist()]
    assert len(expected[0]) > 100
    assert [image.tolist() for image in found] == expected


def test_a_chain_of_overlaps_is_resolved_as_greedily_as_it_is_long() -> None:
    # Each box overlaps only the next: the greedy algorithm keeps every second one.
    chain = [[10.0 * i, 0, 15, 10, 1 - 0.001 * i, 1.0] for i in range(101)]
    (found,) = non_maximum_suppression(torch.tensor([chain]), 0.1, 0.1, 300)
    assert found[:, 0].tolist() == [20.0 * i - 7.5 for i in range(51)]


def test_boxes_of_different_classes_do_not_suppress_each_other() -> None:
    predictions = torch.tensor([[[5.0, 5, 4, 4, 1, 0.9, 0], [5, 5, 4, 4, 1, 0, 0.8]]])
    (found,) = non_maximum_suppression(predictions, 0.1, 0.5, 300)
    assert found[:, 5].tolist() == [0, 1]


def test_a_box_has_several_labels_only_where_asked() -> None:
    predictions = torch.tensor([[[5.0, 5, 4, 4, 1, 0.5, 0.75]]])
    several = non_maximum_suppression(predictions, 0.1, 0.5, 300, multi_label=True)[0]
    one = non_maximum_suppression(predictions, 0.1, 0.5, 300, multi_label=False)[0]
    assert several[:, 5].tolist() == [1, 0]
    assert one.tolist() == [[3, 3, 7, 7, 0.75, 1]]


def test_images_without_detections_give_empty_tensors() -> None:
    found = non_maximum_suppression(torch.zeros(2, 10, 7), 0.1, 0.5, 300)
    assert [tuple(image.shape) for image in found] == [(0, 6), (0, 6)]
    assert non_maximum_suppression(torch.zeros(0, 10, 7), 0.1, 0.5, 300) == []
    assert non_maximum_suppression(torch.zeros(1, 0, 7), 0.1, 0.5, 300)[0].shape == (0, 6)


@pytest.mark.parametrize(
    ("predictions", "arguments", "message"),
    [
        (torch.zeros(10, 7), (0.1, 0.5, 300), r"\(10, 7\): expected \(B, N"),
        (torch.zeros(1, 1, 7), (1.1, 0.5, 300), r"confidence 1\.1"),
        (torch.zeros(1, 1, 7), (0.1, 50, 300), r"iou 50: expected both in 0\.\.1"),
        (torch.zeros(1, 1, 7), (0.1, 0.5, 0), "max_detections 0"),
    ],
)
def test_arguments_out_of_range_are_refused(
    predictions: Tensor, arguments: tuple[float, float, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        non_maximum_suppression(predictions, *arguments)


def _greedy(
    rows: list, confidence: float, iou: float, max_detections: int, multi_label: bool
) -> list[list[float]]:
    candidates = []
    for x, y, w, h, objectness, *class_scores in rows:
        if not objectness > confidence:
            continue
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        scores = [objectness * class_score for class_score in class_scores]
        wanted = range(len(scores))
        if not multi_label:
            if any(math.isnan(value) for value in scores):
                continue
            wanted = [scores.index(max(scores))]
        for k in wanted:
            if scores[k] > confidence and all(map(math.isfinite, (*box, scores[k]))):
                candidates.append([*box, scores[k], float(k)])
    candidates.sort(key=lambda candidate: -candidate[4])  # stable
    kept: list[list[float]] = []
    for candidate in candidates:
        rivals = [other for other in kept if other[5] == candidate[5]]
        if all(_iou(other, candidate) <= iou for other in rivals):
            kept.append(candidate)
    return kept[:max_detections]


def _iou(p: list[float], q: list[float]) -> float:
    width = max(min(p[2], q[2]) - max(p[0], q[0]), 0.0)
    height = max(min(p[3], q[3]) - max(p[1], q[1]), 0.0)
    union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - width * height
    return width * height / union if union > 0 else 0.0
