"""Of several starts of a run only the newest may write."""

from pathlib import Path

from yolo.training.resilience.fencing import START, Fence, close_for_others


def test_a_later_start_closes_the_fence_for_the_earlier_one(tmp_path: Path) -> None:
    earlier = Fence(tmp_path, close_for_others(tmp_path))
    assert not earlier.is_closed
    later = Fence(tmp_path, close_for_others(tmp_path))
    assert earlier.is_closed and not later.is_closed


def test_what_cannot_be_read_or_is_older_closes_nothing(tmp_path: Path) -> None:
    fence = Fence(tmp_path, close_for_others(tmp_path))
    (tmp_path / START).write_text("17-1")
    assert not fence.is_closed
    (tmp_path / START).unlink()
    assert not fence.is_closed


def test_without_a_supervisor_there_is_no_fence(tmp_path: Path) -> None:
    close_for_others(tmp_path)
    assert not Fence(tmp_path, "").is_closed
