"""Folders that are whole or not there: written beside, synced, checksummed, then named by one atomic rename.

The manifest says each file's size and SHA-256, so that a file that was torn, cut short or altered afterwards is found
before anything is read from it. Needs no torch.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
PART = ".part"
EARLIER = f".earlier{PART}"
"""What a folder is called while another takes its name."""
DAMAGED = ".damaged"
"""What a folder is called after it was found altered: out of the way of the good ones, and still there to look at."""
SPARE_BYTES = 16 * 2**20
"""Left free on the disk for logs, and for what a file system takes itself."""


def part_of(folder: Path) -> Path:
    """Where a folder is written before it gets its name."""
    return folder.with_name(f".{folder.name}{PART}")


def room_for(size: int, folder: Path) -> str | None:
    """None where `size` bytes fit on the disk of a folder that exists, else what is lacking, in words."""
    free = shutil.disk_usage(folder).free
    if free >= size + SPARE_BYTES:
        return None
    return f"{size / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free"


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and return only when the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return only when the disk knows the names in a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_of(path: Path) -> dict[str, Any]:
    """A file's entry in the manifest."""
    with path.open("rb") as file:
        return {
            "bytes": os.fstat(file.fileno()).st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def commit(part: Path, folder: Path, digests: dict[str, dict[str, Any]]) -> None:
    """Give a folder its name. `digests` are of all files in `part`, each of which was synced."""
    write_synced(part / MANIFEST, json.dumps(digests, indent=1, sort_keys=True).encode())
    sync_folder(part)
    if folder.exists():  # of the same step: saved again after a resume
        earlier = folder.with_name(f".{folder.name}{EARLIER}")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    part.rename(folder)
    sync_folder(folder.parent)


def verify(folder: Path) -> str | None:
    """None where a folder holds what its manifest says, byte for byte; else the first difference, in words."""
    try:
        listed = json.loads((folder / MANIFEST).read_bytes())
        for name, entry in listed.items():
            path = folder / name
            if path.name != name or path.is_symlink() or not path.is_file():
                return f"{name} is missing"
            if (size := path.stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes, and {entry['bytes']} were written"
            if digest_of(path)["sha256"] != entry["sha256"]:
                return f"{name} was altered: its SHA-256 is not the one that was written"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {type(error).__name__}: {error}"
    return None


def quarantine(folder: Path) -> Path:
    """Rename a damaged folder, so that it is not taken for a good one again; returns its new name."""
    aside = folder.with_name(folder.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return aside


def remove_unfinished(parent: Path) -> None:
    """Remove what a killed writer left under names that `part_of` gave; what it had only moved away comes back."""
    for earlier in parent.glob(f".*{EARLIER}"):
        folder = parent / earlier.name.removeprefix(".").removesuffix(EARLIER)
        if not folder.exists():
            earlier.rename(folder)
    for left in parent.glob(f".*{PART}"):
        shutil.rmtree(left, ignore_errors=True)


def remove(folders: Iterable[Path]) -> None:
    """Remove published folders; one that goes in the middle of it is no folder any more."""
    for folder in folders:
        gone = part_of(folder)
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone)
