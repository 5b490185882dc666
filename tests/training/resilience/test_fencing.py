"""Of several starts of a run only the newest may write."""

from pathlib import Path

from yolo.training.resilience.fencing import START, FencingToken, issue_token


def test_a_later_start_closes_the_fence_for_the_earlier_one(tmp_path: Path) -> None:
    earlier = FencingToken(tmp_path, issue_token(tmp_path))
    assert not earlier.is_stale
    later = FencingToken(tmp_path, issue_token(tmp_path))
    assert earlier.is_stale and not later.is_stale


def test_what_cannot_be_read_or_is_older_closes_nothing(tmp_path: Path) -> None:
    fence = FencingToken(tmp_path, issue_token(tmp_path))
    (tmp_path / START).write_text("17-1")
    assert not fence.is_stale
    (tmp_path / START).unlink()
    assert not fence.is_stale


def test_without_a_supervisor_there_is_no_fence(tmp_path: Path) -> None:
    issue_token(tmp_path)
    assert not FencingToken(tmp_path, "").is_stale
