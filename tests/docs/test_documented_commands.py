"""Every shell block, recipe and Python block of README.md and docs/ does what its page says, on small data."""

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.blocks import Block, blocks_of, inline_commands
from tests.docs.programs import UNTRAINED, serve
from tests.docs.session import NOT_HERE, PageError, run_blocks
from tests.docs.tree import STAND_INS, make_readers_data, make_tree

README = "README.md"
PAGES = [README, *sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("docs/**/*.md"))]
KEPT = ("PATH", "LANG", "TMPDIR", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Variables that a reader's shell has from that of the tests."""
OF_TABLES = ("docs/results.md",)
"""Pages whose commands stand in tables, one beside each claim; the recipes' pages train the same recipes."""


def documented(page: str) -> list[Block]:
    """The blocks of a page, and the commands of its tables if it has some there."""
    blocks = list(blocks_of(REPOSITORY / page, page))
    if page in OF_TABLES:
        blocks += inline_commands(REPOSITORY / page, page)
    return blocks


@pytest.fixture(scope="module")
def reader(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[dict[str, str]]:
    """The environment of a reader: a tree to clone, stand-ins on PATH, data, and a run of the demo that has ended."""
    folder = tmp_path_factory.mktemp("reader")
    tree = make_tree(folder)
    make_readers_data(folder / "path/to")
    try:
        request.getfixturevalue("cluster_can_be_built")
        has_cluster = True
    except pytest.skip.Exception as reason:
        warnings.warn(
            f"documented commands on emulated hosts are only checked: {reason}", stacklevel=1
        )
        has_cluster = False
    environment = {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        "STAND_IN_TREE": str(tree),
        "STAND_INS": str(STAND_INS),
        "STAND_IN_PYTHON": shutil.which("python3") or "python3",
        "FORK_SOCKET": str(folder / "socket"),
        "READERS_DATA": str(folder / "path/to"),
        "COLUMNS": "200",
    }
    with serve(folder / "socket", has_cluster):
        block = Block("the run that has ended", 1, "sh", "yolo train recipes/demo.yaml\n")
        run_blocks([block], tree, environment, folder / "first")
        shutil.move(folder / "first/home/runs", tree / "runs")
        yield environment


@pytest.mark.slow(8)
@pytest.mark.parametrize("page", [page for page in PAGES if documented(page)])
def test_every_block_of_a_page_does_what_the_page_says(
    page: str, reader: dict[str, str], tmp_path: Path
) -> None:
    tree = None if page == README else Path(reader["STAND_IN_TREE"])  # README begins with a clone
    environment = reader | ({UNTRAINED: "1"} if page in OF_TABLES else {})
    run_blocks(documented(page), tree, environment, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "text", "told"),
    [
        (
            "sh",
            "true\nyolo check recipes/nowhere.yaml\ntouch later\n",
            "recipes/nowhere.yaml: no such file",
        ),
        ("console", "$ yolo --version\nyolo 0.0.0\n", "and the page shows\nyolo 0.0.0"),
        ("console", "$ exit 3\n", "exit code 3"),
        ("python", "import yolo\nyolo.nothing\n", "has no attribute 'nothing'"),
        ("sh", "deepspeed --help-me\n", "no stand-in for it"),
    ],
)
def test_a_block_that_is_wrong_is_named(
    language: str, text: str, told: str, reader: dict[str, str], tmp_path: Path
) -> None:
    block = Block("page.md", 7, language, text)
    with pytest.raises(PageError, match="page.md:7") as error:
        run_blocks([block], Path(reader["STAND_IN_TREE"]), reader, tmp_path)
    assert told in str(error.value)
    assert not (tmp_path / "home/later").exists()


def test_the_number_of_documented_commands_is_stated(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [block for page in PAGES for block in documented(page)]
    commands = [command for block in blocks for command in block.commands]
    left = [command for command in commands if NOT_HERE.fullmatch(command)]
    files = sum(block.file is not None for block in blocks)
    programs = sum(block.language == "python" and not block.file for block in blocks)
    with capsys.disabled():
        print(
            f"\n{len(PAGES)} pages: {len(commands) - len(left)} commands and {programs} Python programs are run, "
            f"{files} files are written and used; {len(left)} commands are left to CI itself"
        )
    assert len(commands) - len(left) > 150
    assert programs > 10
