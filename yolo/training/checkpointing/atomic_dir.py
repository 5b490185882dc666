"""Folders that are valid or absent: written under a temporary name, synced, checksummed, then renamed atomically.

The manifest holds each file's size and SHA-256, so that a torn, truncated or altered file is found before anything is
read from it. Needs no torch.
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
"""Suffix of a folder while another one takes its name."""
DAMAGED = ".damaged"
"""Suffix of a quarantined folder: it was found altered, and stays for inspection."""
SPARE_BYTES = 16 * 2**20
"""Left free on the disk, for logs, a run's report and the file system's own data."""


def part_of(folder: Path) -> Path:
    """The temporary folder in which a folder is written."""
    return folder.with_name(f".{folder.name}{PART}")


def room_for(size: int, folder: Path) -> str | None:
    """None if `size` bytes fit on the disk of an existing folder, else the reason."""
    needed, free = size + SPARE_BYTES, shutil.disk_usage(folder).free
    if free >= needed:
        return None
    return f"{needed / 2**20:.0f} MiB are needed and {free / 2**20:.0f} MiB are free"


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file, and return once it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return once the names in a folder are on the disk."""
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
    """Rename `part` to `folder`, with a manifest. `digests` are of all files in `part`, all synced."""
    write_synced(part / MANIFEST, json.dumps(digests, indent=1, sort_keys=True).encode())
    sync_folder(part)
    if folder.exists():  # the same step, saved again after a resume
        earlier = folder.with_name(f".{folder.name}{EARLIER}")
        shutil.rmtree(earlier, ignore_errors=True)
        folder.rename(earlier)
    part.rename(folder)
    sync_folder(folder.parent)


def verify(folder: Path) -> str | None:
    """None if a folder matches its manifest byte for byte, else the first difference."""
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
    """Rename a damaged folder, so that it is not used again; returns its new name."""
    aside = folder.with_name(folder.name + DAMAGED)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    return aside


def remove_unfinished(parent: Path) -> None:
    """Remove unfinished folders of a killed writer, and restore those that it had only moved away."""
    for earlier in parent.glob(f".*{EARLIER}"):
        folder = parent / earlier.name.removeprefix(".").removesuffix(EARLIER)
        if not folder.exists():
            earlier.rename(folder)
    for left in parent.glob(f".*{PART}"):
        shutil.rmtree(left, ignore_errors=True)


def remove(folders: Iterable[Path]) -> None:
    """Remove valid folders; an interrupted removal leaves none under its own name."""
    for folder in folders:
        removed = part_of(folder)
        shutil.rmtree(removed, ignore_errors=True)
        folder.rename(removed)
        shutil.rmtree(removed)
