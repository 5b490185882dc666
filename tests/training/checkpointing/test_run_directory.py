from pathlib import Path

import pytest

from yolo.errors import CheckpointError
from yolo.training.checkpointing.run_directory import (
    RunDirectory,
    choose_run,
    claim,
    named_run,
    new_run,
    resume_hint,
)


def make_run(
    runs: Path, time: str, has_checkpoint: bool, is_finished: bool = False
) -> RunDirectory:
    run = RunDirectory(runs / "demo" / time)
    run.create()
    run.become_latest()
    if has_checkpoint:
        (run.checkpoints / "epoch-0001").mkdir()
    if is_finished:
        run.finished.touch()
    return run


def test_latest_points_at_the_newest_run(tmp_path: Path) -> None:
    make_run(tmp_path, "2026-01-01T00-00-00Z", False)
    newest = make_run(tmp_path, "2026-01-02T00-00-00Z", False)
    assert (tmp_path / "demo" / "latest").resolve() == newest.path.resolve()


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    first = new_run("demo", tmp_path)
    first.create()
    assert new_run("demo", tmp_path).path != first.path


def test_runs_that_choose_a_folder_at_the_same_moment_get_one_each(tmp_path: Path) -> None:
    chosen = new_run("demo", tmp_path)
    first, second = claim(chosen), claim(chosen)
    assert first.path == chosen.path
    assert second.path != first.path and second.path.is_dir()


def test_a_run_that_goes_on_keeps_its_folder(tmp_path: Path) -> None:
    earlier = make_run(tmp_path, "2026-01-01T00-00-00Z", True)
    assert claim(choose_run("demo", "auto", tmp_path)).path == earlier.path


@pytest.mark.parametrize(
    ("has_checkpoint", "said"),
    [
        (True, "resumes from epoch-0001"),
        (False, "has no checkpoint to resume from"),
    ],
)
def test_a_stopped_run_says_what_is_left_of_it(
    tmp_path: Path, has_checkpoint: bool, said: str
) -> None:
    assert said in resume_hint(make_run(tmp_path, "2026-01-01T00-00-00Z", has_checkpoint))


def test_a_run_that_reached_its_end_is_not_to_be_gone_on_with(tmp_path: Path) -> None:
    run = make_run(tmp_path, "2026-01-01T00-00-00Z", True, is_finished=True)
    assert resume_hint(run) == f"{run.path} had reached its end"


def test_never_starts_anew(tmp_path: Path) -> None:
    earlier = make_run(tmp_path, "2026-01-01T00-00-00Z", True)
    assert choose_run("demo", "never", tmp_path).path != earlier.path


def test_auto_goes_on_with_the_newest_run_that_has_a_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path, "2026-01-01T00-00-00Z", True)
    wanted = make_run(tmp_path, "2026-01-02T00-00-00Z", True)
    make_run(tmp_path, "2026-01-03T00-00-00Z", False)
    assert choose_run("demo", "auto", tmp_path).path == wanted.path


def test_auto_starts_anew_after_a_finished_run(tmp_path: Path) -> None:
    make_run(tmp_path, "2026-01-01T00-00-00Z", True)
    finished = make_run(tmp_path, "2026-01-02T00-00-00Z", True, is_finished=True)
    assert not choose_run("demo", "auto", tmp_path).path.exists()
    assert finished.path.exists()


def test_auto_starts_anew_where_there_was_no_run(tmp_path: Path) -> None:
    assert not choose_run("demo", "auto", tmp_path).path.exists()


def test_a_named_run_must_exist(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="no such run; expected a folder such as runs/demo/latest"
    ):
        choose_run("demo", str(tmp_path / "nowhere"), tmp_path)


def test_a_named_run_must_have_a_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path, "2026-01-01T00-00-00Z", False)
    with pytest.raises(CheckpointError, match="has no checkpoint to resume from"):
        choose_run("demo", str(run.path), tmp_path)


def test_a_named_link_is_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path, "2026-01-01T00-00-00Z", True)
    chosen = choose_run("demo", str(tmp_path / "demo" / "latest"), tmp_path)
    assert chosen.path == run.path.resolve()


def test_what_is_unfinished_or_damaged_is_no_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path, "2026-01-01T00-00-00Z", False)
    names = ("epoch-0001", "epoch-0001-step-0000004", ".epoch-0002.part", "epoch-0002.damaged")
    for name in names:
        (run.checkpoints / name).mkdir()
    assert [path.name for path in run.published()] == ["epoch-0001-step-0000004", "epoch-0001"]


def test_what_is_no_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("somebody's notes")
    RunDirectory(tmp_path / "mine").create()
    RunDirectory(tmp_path / "mine").become_latest()
    assert (tmp_path / "latest").read_text() == "somebody's notes"


def test_a_named_folder_is_not_resumed_unasked(tmp_path: Path) -> None:
    run = make_run(tmp_path, "mine", True)
    with pytest.raises(
        CheckpointError, match="holds epoch-0001 of an unfinished run; resume .*auto"
    ):
        named_run(run.path, "never")
    assert named_run(run.path, "auto") == run


def test_a_finished_run_is_not_written_over(tmp_path: Path) -> None:
    run = make_run(tmp_path, "mine", True, is_finished=True)
    with pytest.raises(CheckpointError, match="is finished; start a new run in another folder"):
        named_run(run.path, "auto")
