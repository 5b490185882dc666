import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo.model.assignment import LevelMatches, match_level

ANCHORS = ((1.25, 1.625), (2.0, 3.75), (4.125, 2.875))
share = st.floats(0.0, 1.0, width=32)
target = st.tuples(st.integers(0, 3), st.integers(0, 2), share, share, share, share)


def _match(rows: list, grid: tuple[int, int] = (8, 12), threshold: float = 4.0) -> LevelMatches:
    targets = torch.tensor(rows, dtype=torch.float64).view(-1, 6)
    return match_level(targets, torch.tensor(ANCHORS, dtype=torch.float64), grid, threshold)


def _cells(matches: LevelMatches) -> set[tuple[int, int]]:
    return set(zip(matches.row.tolist(), matches.column.tolist(), strict=True))


def test_a_box_matches_its_cell_and_the_two_nearest() -> None:
    matches = _match([[0, 0, 5.3 / 12, 4.6 / 8, 2 / 12, 2 / 8]])
    assert _cells(matches) == {(4, 5), (4, 4), (5, 5)}


def test_a_box_in_a_corner_of_the_grid_stays_in_the_grid() -> None:
    matches = _match([[0, 0, 0.3 / 12, 7.9 / 8, 2 / 12, 2 / 8]])
    assert _cells(matches) == {(7, 0)}


def test_a_box_in_the_middle_of_its_cell_matches_no_neighbour() -> None:
    matches = _match([[0, 0, 5.5 / 8, 4.5 / 8, 2 / 8, 2 / 8]], grid=(8, 8))
    assert _cells(matches) == {(4, 5)}


def test_a_centre_on_a_grid_line_counts_each_cell_once() -> None:
    matches = _match([[0, 0, 5 / 8, 4 / 8, 2 / 8, 2 / 8]], grid=(8, 8))
    assert _cells(matches) == {(4, 5), (4, 4), (3, 5)}
    assert len(matches) == 3 * len(set(matches.anchor.tolist()))


def test_a_centre_on_the_far_edge_belongs_to_the_last_cell() -> None:
    matches = _match([[0, 0, 1.0, 1.0, 2 / 12, 2 / 8]])
    assert (7, 11) in _cells(matches)
    assert matches.column.max() == 11


def test_only_anchors_within_the_threshold_match() -> None:
    matches = _match([[0, 0, 0.5, 0.5, 1.0 / 12, 1.0 / 8]], threshold=2.0)
    assert set(matches.anchor.tolist()) == {0}


def test_a_ratio_of_exactly_the_threshold_does_not_match() -> None:
    # Twice the first anchor's width and its height, in numbers without rounding.
    matches = _match([[0, 0, 0.5, 0.5, 2.5 / 8, 1.625 / 8]], grid=(8, 8), threshold=2.0)
    assert 0 not in matches.anchor.tolist()


def test_no_targets_give_no_matches_of_the_right_shapes() -> None:
    matches = _match([])
    assert len(matches) == 0
    assert matches.box.shape == (0, 4)
    assert matches.anchor_shape.shape == (0, 2)
    assert matches.image.dtype == torch.int64


@settings(max_examples=60, deadline=None)
@given(st.lists(target, max_size=6), st.sampled_from([(8, 12), (3, 2), (1, 1)]))
def test_matching_equals_a_slow_loop(rows: list, grid: tuple[int, int]) -> None:
    matches = _match(rows, grid)
    found = sorted(
        zip(
            matches.image.tolist(),
            matches.anchor.tolist(),
            matches.row.tolist(),
            matches.column.tolist(),
            matches.category.tolist(),
            *(matches.box[:, k].tolist() for k in range(4)),
            strict=True,
        )
    )
    assert found == sorted(_slowly_matched(rows, grid, 4.0))


def _slowly_matched(rows: list, grid: tuple[int, int], threshold: float) -> list[tuple]:
    height, width = grid
    matches = []
    for image, category, cx, cy, w, h in rows:
        x, y, w, h = cx * width, cy * height, w * width, h * height
        for anchor, (anchor_w, anchor_h) in enumerate(ANCHORS):
            if min(w, h) == 0:
                continue
            ratios = (w / anchor_w, anchor_w / w, h / anchor_h, anchor_h / h)
            if max(ratios) >= threshold:
                continue
            steps = [(0.0, 0.0)]
            steps += [(-0.5, 0.0)] if x % 1 < 0.5 and x > 1 else []
            steps += [(0.0, -0.5)] if y % 1 < 0.5 and y > 1 else []
            steps += [(0.5, 0.0)] if x % 1 > 0.5 and x < width - 1 else []
            steps += [(0.0, 0.5)] if y % 1 > 0.5 and y < height - 1 else []
            for dx, dy in steps:
                column = min(max(math.floor(x + dx), 0), width - 1)
                row = min(max(math.floor(y + dy), 0), height - 1)
                matches.append((image, anchor, row, column, category, x - column, y - row, w, h))
    return matches
