"""Hundreds of bad inputs, each refused in a clear line or left out and counted; `pytest tests/fuzz -s` shows how many."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.attempt import attempt, attempt_apart
from tests.fuzz.case import HEADING, Case, Tally
from tests.fuzz.coco_files import coco_files
from tests.fuzz.hostfiles import hostfiles
from tests.fuzz.label_files import label_files
from tests.fuzz.profiles import profiles
from tests.fuzz.recipes import TEXTS, overrides, recipes
from tests.fuzz.voc_files import voc_files
from tests.fuzz.weights_files import weights_files

Cases = Callable[[Path, Random], Iterator[Case]]
KINDS: dict[str, tuple[Cases, int]] = {
    "recipes": (recipes, 100),
    "overrides": (overrides, 40),
    "COCO files": (coco_files, 100),
    "YOLO labels": (label_files, 60),
    "VOC files": (voc_files, 25),
    "weights": (weights_files, 60),
    "hostfiles": (hostfiles, 40),
    "cluster profiles": (profiles, 20),
}
"""With the least number of refusals and quarantines that each has to bring."""
SEED = 5


def test_a_program_given_bad_recipes_names_each_and_ends(tmp_path: Path) -> None:
    paths = []
    for number, text in enumerate(TEXTS.values()):
        path = tmp_path / f"bad{number:03}.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        paths.append(str(path))
    ended = attempt_apart(("check", *paths), 120, tmp_path)
    assert ended.code == 2 and not ended.trace
    for path in paths:
        assert f"{path}: OK for" in ended.stdout or path in ended.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_or_counted(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, least = KINDS[kind]
    output = tmp_path / "output"
    inputs = tmp_path / "inputs"
    for folder in (output, inputs):
        folder.mkdir()
    monkeypatch.chdir(output)
    tally = Tally(kind)
    for case in cases(inputs, Random(f"{SEED} {kind}")):
        ended = attempt(case.arguments, output)
        tally.add(case, ended)
    print(f"\n{HEADING}\n{tally.row()}")
    assert not tally.failures, "\n".join(tally.failures)
    assert tally.stopped >= least
