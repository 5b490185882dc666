"""Lists of hosts that the launcher must not be given."""

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Oracle, Verdict
from tests.fuzz.mutations import ENCODINGS, damaged, odd_files
from tests.fuzz.recipes import SOUND

HOSTS = "# ours\nnode0 slots=8\nuser@node1 slots=8 # the old one\nnode2.example.org slots=4\n"
TEXTS = {
    "an option of ssh": "-oProxyCommand=touch${IFS}canary slots=1\nb slots=1",
    "a command": "node0;touch slots=1\nb slots=1",
    "a command within": "$(touch\tcanary) slots=1\nb slots=1",
    "backquotes": "`reboot` slots=1\nb slots=1",
    "a pipe": "a|b slots=1\nb slots=1",
    "a path": "/etc/passwd slots=1\nb slots=1",
    "no slots": "node0\nnode1",
    "slots of words": "node0 slots=many\nnode1 slots=8",
    "slots of nothing": "node0 slots=\nnode1 slots=8",
    "negative slots": "node0 slots=-1\nnode1 slots=8",
    "slots of 5,000 digits": f"node0 slots={'9' * 5_000}\nnode1 slots=8",
    "slots of 20 digits": f"node0 slots={'9' * 20}\nnode1 slots=8",
    "a host twice": "node0 slots=8\nnode0 slots=8",
    "too few": "node0 slots=8",
    "nothing but comments": "# a\n# b",
    "no line breaks": "node0 slots=8 node1 slots=8",
    "an escape of the terminal": "\x1b[2Jnode slots=1\nb slots=1",
    "a name with an escape in it": "no\x1b[31mde slots=1\nb slots=1",
    "a NUL": "no\0de slots=1\nb slots=1",
    "JSON": '{"node0": 8, "node1": 8}',
    "2 MB": "# " + "x" * 2_000_000,
    "a name of 100,000 letters": "x" * 100_000 + "; slots=1\nb slots=1",
    "YAML": "node0:\n  slots: 8\nnode1:\n  slots: 8",
    "letters beyond ASCII": "n\xf6de0 slots=8\nb slots=1",
    "a right-to-left mark": "no\u202ede slots=8\nb slots=1",
}


def hostfiles(folder: Path, random: Random) -> Iterator[Case]:
    """Lists of every kind of wrong, for two nodes."""
    recipe, path = folder / "sound.yaml", folder / "hosts"
    recipe.write_text(SOUND)
    overrides = (str(recipe), "cluster.nodes=2", f"cluster.hostfile={path}")

    def case(name: str, content: bytes) -> Case:
        path.write_bytes(content)
        return Case(name, ("check", *overrides), str(path), _is_a_list(content))

    for name, text in TEXTS.items():
        yield case(name, text.encode())
    for name, encode in ENCODINGS.items():
        yield case(name, encode(HOSTS))
    for name, content in damaged(HOSTS.encode(), random, 35):
        yield case(name, content)
    path.unlink()
    for name in odd_files(path):
        yield Case(f"{name} for a list", ("check", *overrides, "--cluster"), str(path))


def _is_a_list(content: bytes) -> Oracle:
    """Harmless is a list in which each line names a host, as DeepSpeed's launcher has it, and once."""

    def read(ended: Ended) -> Verdict:
        lines = [line.strip() for line in content.decode(errors="replace").splitlines()]
        stated = [line for line in lines if line and not line.startswith("#")]
        names = [re.fullmatch(r"([\w@.-]+)\s+slots=(\d+)\s*(#.*)?", line) for line in stated]
        assert all(names), stated
        assert len({found[1] for found in names if found}) == len(stated) >= 2
        return Verdict.HARMLESS

    return read
