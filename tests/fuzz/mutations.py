"""What happens to bytes and to files, whatever they hold."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

SIZE = 1 << 14
"""Of what is put in."""


def damaged(content: bytes, random: Random, count: int) -> Iterator[tuple[str, bytes]]:
    """So many different wrongs done to a file's bytes, each with its name."""
    kinds = list(_DAMAGES)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield f"{kind} ({number})", _DAMAGES[kind](content, random)


def _at(content: bytes, random: Random) -> int:
    return random.randrange(max(1, len(content)))


def _cut(content: bytes, random: Random) -> bytes:
    return content[: _at(content, random)]


def _flip(content: bytes, random: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 3, 30))):
        changed[_at(content, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _zero(content: bytes, random: Random) -> bytes:
    start = _at(content, random)
    return content[:start] + bytes(min(64, len(content) - start)) + content[start + 64 :]


def _noise(content: bytes, random: Random) -> bytes:
    start = _at(content, random)
    return content[:start] + random.randbytes(40) + content[start + 40 :]


def _put_in(content: bytes, random: Random) -> bytes:
    start = _at(content, random)
    return content[:start] + random.randbytes(random.randrange(1, 50)) + content[start:]


def _taken_out(content: bytes, random: Random) -> bytes:
    start = _at(content, random)
    return content[:start] + content[start + random.randrange(1, 50) :]


def _head_lost(content: bytes, random: Random) -> bytes:
    return content[random.randrange(1, 20) :]


_DAMAGES: dict[str, Callable[[bytes, Random], bytes]] = {
    "cut off": _cut,
    "bits flipped": _flip,
    "zeros within": _zero,
    "noise within": _noise,
    "bytes put in": _put_in,
    "bytes taken out": _taken_out,
    "its head lost": _head_lost,
}

ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Latin-1 with umlauts": lambda text: (text + "\n# \xfc\xe4").encode("latin-1"),
    "a surrogate in UTF-8": lambda text: text.encode() + b"\n# \xed\xa0\x80",
    "NUL bytes between": lambda text: text.replace("\n", "\n\0").encode(),
    "EBCDIC": lambda text: text.encode("cp500", errors="replace"),
}
"""Wrong ones for a text."""


def odd_files(path: Path) -> Iterator[str]:
    """Puts one thing after another where a file should be: yields what, and removes it afterwards.

    Reading some of them would never end.
    """
    for kind, put in _ODD.items():
        put(path)
        yield kind
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


_ODD: dict[str, Callable[[Path], None]] = {
    "a FIFO": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "an empty file": lambda path: path.touch(),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": _link("/nowhere/at/all"),
    "a link to /dev/zero": _link("/dev/zero"),
    "a link to /dev/tty": _link("/dev/tty"),
    "a link to /proc/self/mem": _link("/proc/self/mem"),
}
