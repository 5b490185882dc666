"""Run the blocks of a page in one shell session, as a reader would who copies them in their order."""

import doctest
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.docs.blocks import Block
from tests.docs.tree import STAND_INS

NOT_HERE = re.compile(r"make (test|test-[a-z]+|docs|lint|format|same-bits|configs)\b.*")
"""Commands that run this test, or change the tree it belongs to; CI runs them, or tests/test_same_bits.py."""
ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FINE = (0, 2)
"""Exit codes of a command whose output the page shows; 2 is an error that a user can mend."""


class PageError(AssertionError):
    """A block did not do what its page says."""


def run_blocks(
    blocks: Sequence[Block], tree: Path | None, environment: Mapping[str, str], folder: Path
) -> None:
    """Run blocks in a copy of `tree`, or in an empty folder. Raises PageError for the first block that is wrong.

    `/path/to` in their text means the environment's READERS_DATA.
    """
    home, logs = folder / "home", folder / "logs"
    logs.mkdir(parents=True)
    if tree is None:
        home.mkdir()
    else:
        shutil.copytree(tree, home, symlinks=True)

    def here(text: str) -> str:
        return text.replace("/path/to", environment["READERS_DATA"])

    for number, block in enumerate(blocks):
        (logs / f"{number}.text").write_text(here(block.text))
    path = f"{home}/.venv/bin:{STAND_INS}:{environment['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", here(shell_script(blocks, logs))],
        cwd=home,
        env={**environment, "PATH": path, "HOME": str(folder)},
        timeout=900,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    at = (logs / "at").read_text().strip()
    if at != "done":
        block, said = blocks[int(at)], (logs / f"{at}.log").read_text()
        raise PageError(
            f"{block}: exit code {ran.returncode}\n{block.text}\n{said[-4000:]}{ran.stderr[-2000:]}"
        )
    for number, block in enumerate(blocks):
        for part, (command, shown) in enumerate(block.dialogue):
            _compare(block, command, here(shown), logs / f"{number}-{part}")


def shell_script(blocks: Sequence[Block], logs: Path) -> str:
    """Each block writes into a log of its own, and the number of the one that runs stands in the file `at`."""
    lines = ["set -euo pipefail"]
    for number, block in enumerate(blocks):
        log = f"'{logs}'/{number}"
        lines += [f"echo {number} > '{logs}/at'", f"exec >>{log}.log 2>&1"]
        if block.file:
            lines.append(f"mkdir -p $(dirname {block.file}); cp {log}.text {block.file}")
        elif block.language == "python":
            lines.append(f"cp {log}.text block.py; python block.py")
        elif block.language == "sh":
            for command in block.commands:
                if not NOT_HERE.fullmatch(command):
                    lines += [command, "[ $? = 0 ]"]  # `a && b` where a fails ends no shell
        for part, (command, _) in enumerate(block.dialogue):
            said = f"{log}-{part}"
            lines.append(
                f"set +e; {{ {command}\n}} >>{said}.said 2>&1; echo $? >{said}.code; set -e"
            )
    return "\n".join([*lines, f"echo done > '{logs}/at'"]) + "\n"


def _compare(block: Block, command: str, shown: str, log: Path) -> None:
    said, code = log.with_name(f"{log.name}.said"), log.with_name(f"{log.name}.code")
    printed = said.read_text() if said.exists() else ""
    if int(code.read_text()) not in FINE:
        raise PageError(f"{block}: {command}: exit code {code.read_text()}\n{printed}")
    if not doctest.OutputChecker().check_output(shown, printed, ELLIPSIS):
        raise PageError(f"{block}: {command}\nprinted\n{printed}\nand the page shows\n{shown}")
