import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo.model.boxes import complete_iou, pairwise_iou, xywh_to_xyxy

coordinate = st.floats(-100, 100)
side = st.floats(0.01, 100)
boxes_xywh = st.lists(st.tuples(coordinate, coordinate, side, side), min_size=1, max_size=8)


@settings(deadline=None)
@given(boxes_xywh, boxes_xywh)
def test_pairwise_iou_equals_a_slow_loop(first: list, second: list) -> None:
    a, b = (xywh_to_xyxy(torch.tensor(x, dtype=torch.float64)) for x in (first, second))
    expected = [[_slow_iou(p, q) for q in b.tolist()] for p in a.tolist()]
    torch.testing.assert_close(pairwise_iou(a, b), torch.tensor(expected, dtype=torch.float64))


def test_pairwise_iou_takes_batches() -> None:
    corners = xywh_to_xyxy(torch.rand(2, 5, 4))
    single = torch.stack([pairwise_iou(image, image[:3]) for image in corners])
    torch.testing.assert_close(pairwise_iou(corners, corners[:, :3]), single)


def test_a_box_without_area_overlaps_nothing() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert pairwise_iou(
        point, torch.cat((point, torch.tensor([[0.0, 0.0, 9.0, 9.0]])))
    ).tolist() == [[0, 0]]


@settings(deadline=None)
@given(boxes_xywh)
def test_ciou_of_a_box_with_itself_is_1(boxes: list[tuple[float, ...]]) -> None:
    xywh = torch.tensor(boxes, dtype=torch.float64)
    torch.testing.assert_close(
        complete_iou(xywh, xywh), torch.ones(len(boxes), dtype=torch.float64), atol=2e-3, rtol=0
    )


def test_ciou_equals_the_papers_formula() -> None:
    first, second = (1.0, 2.0, 4.0, 2.0), (2.0, 2.5, 2.0, 3.0)
    iou = 2 * 2 / (8 + 6 - 4)
    distance = (1 + 0.25) / (4**2 + 3**2)
    v = 4 / math.pi**2 * (math.atan(2 / 3) - math.atan(4 / 2)) ** 2
    expected = iou - distance - v**2 / (1 - iou + v)
    ciou = complete_iou(torch.tensor([first]), torch.tensor([second]))
    torch.testing.assert_close(ciou, torch.tensor([expected]))


def test_ciou_and_its_gradient_stay_finite_without_area() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 0, 0], [0, 0, 5, 0], [0, 0, 0, 5], [0, 0, 1e4, 1e-9]], requires_grad=True
    )
    ciou = complete_iou(boxes, torch.tensor([[0.0, 0, 1, 1]]).expand(4, 4))
    ciou.sum().backward()
    assert ciou.isfinite().all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def _slow_iou(p: list[float], q: list[float]) -> float:
    width = max(min(p[2], q[2]) - max(p[0], q[0]), 0)
    height = max(min(p[3], q[3]) - max(p[1], q[1]), 0)
    union = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - width * height
    return width * height / union
