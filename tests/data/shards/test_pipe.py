from pathlib import Path

import pytest

from yolo.data.shards import store as shard_store
from yolo.data.shards.store import CommandFailed, PipedCommand, ShardStore
from yolo.errors import DataError

MOST = 10_000


def test_a_command_that_fails_is_told_with_its_exit_code_and_last_line() -> None:
    command = PipedCommand("printf abc; echo first >&2; echo no such bucket >&2; exit 3")
    assert command.read(10) == b"abc"
    with pytest.raises(CommandFailed, match=r"ended with exit code 3: no such bucket$"):
        command.read(10)
    command.close()


def test_a_program_that_is_not_there_is_not_tried_again(tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    store = ShardStore(f"pipe:echo >> {tried}; no-such-program {{}}")
    with pytest.raises(DataError, match=r"exit code 127: .*no-such-program"):
        store.read("index.json", MOST)
    assert len(tried.read_text().splitlines()) == 1


def test_a_command_that_breaks_off_is_run_again_and_read_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_store.time, "sleep", lambda seconds: None)
    (tmp_path / "x").write_bytes(bytes(range(200)))
    once = f"[ -e {tmp_path}/again ] && cat {tmp_path}/{{}} || {{ touch {tmp_path}/again; head -c 50 {tmp_path}/x; exit 1; }}"
    with ShardStore(f"pipe:{once}").open("x", 10, 150) as part:
        found = b""
        while block := part.read(64):
            found += block
    assert found == bytes(range(10, 150))


def test_a_files_name_is_one_word_to_the_shell(tmp_path: Path) -> None:
    name = "a b;touch canary"
    (tmp_path / name).write_text("found")
    assert ShardStore(f"pipe:cat {tmp_path}/{{}}").read(name, MOST) == b"found"
    assert not Path("canary").exists()


def test_no_more_is_read_than_an_index_can_have() -> None:
    with pytest.raises(DataError, match="has more than 10000 bytes"):
        ShardStore("pipe:yes {}").read("index.json", MOST)
