import json
import os
import subprocess
import sys

import pytest

from tests.conftest import LIBRARIES_ALONE, REPOSITORY, processor_seconds


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yolo", "check", "recipes/demo.yaml", *words],
        cwd=REPOSITORY,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data")
    for name in ("annotations", "images"):
        (root / name).mkdir()
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").touch()
    (root / "images" / "a.jpg").write_bytes(bytes(2_000_000))
    return f"data.root={root}"


def test_this_machine_is_shown_in_a_table_and_can_run_it(data: str) -> None:
    ran = check("--cluster", data)
    assert ran.returncode == 0, ran.stderr
    heading, row, *_, last = ran.stdout.splitlines()
    assert heading.split()[:3] == ["host", "commit", "Python"]
    assert ".".join(map(str, sys.version_info[:3])) in row and "1 files, 2.0 MB" in row
    assert last == "recipes/demo.yaml: 1 host can run it, 2 ranks"


def test_what_cannot_work_ends_with_2_and_a_line_each(data: str) -> None:
    ran = check("--cluster", data, "data.train=gone.json", "data.images=gone", "--json")
    assert ran.returncode == 2
    lines = ran.stderr.splitlines()
    assert ["gone.json: cannot be read on" in line for line in lines].count(True) == 1
    assert ["gone: not on" in line for line in lines].count(True) == 1
    found = json.loads(ran.stdout)["findings"]
    assert [each["text"] for each in found if each["severity"] == "error"] == lines


def test_the_side_that_asks_needs_no_torch_and_answers_soon(data: str) -> None:
    code = (
        f"import sys; from yolo.cli import main; main(['check', 'recipes/demo.yaml', '--cluster', '{data}']);"
        "assert not {'torch', 'deepspeed', 'numpy', 'cv2'} & set(sys.modules)"
    )
    assert processor_seconds(code) < 10 * processor_seconds(LIBRARIES_ALONE)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--json",), "--json: expected --cluster with it"),
        (("recipes/bccd.yaml", "--cluster"), "expected one recipe, found"),
        (("--cluster", "cluster.nodes=2"), "set cluster.hostfile to a file"),
        (("--cluster", "cluster.nodes=2", "cluster.hostfile=Makefile"), "Makefile:3: 'RECIPE ?="),
    ],
)
def test_mistakes_end_with_2_and_one_line(words: tuple[str, ...], message: str) -> None:
    ran = check(*words)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
