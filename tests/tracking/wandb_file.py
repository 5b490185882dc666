"""Reading a run's `.wandb` file back: LevelDB's log format (blocks of 32 KiB) around protobuf records."""

import json
import struct
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

FILE_HEADER = 7
BLOCK = 32 * 1024
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(run_directory: Path) -> list[Record]:
    """All records of all offline runs in a run folder, in the order of their start."""
    files = sorted(run_directory.glob("wandb/offline-run-*/*.wandb"))
    return [record for file in files for record in _records(file.read_bytes())]


def history(run_directory: Path) -> list[dict[str, Any]]:
    """The logged rows; nested figures are named `a.b`."""
    return [
        {
            item.key or ".".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        for record in records(run_directory)
        if record.WhichOneof("record_type") == "history"
    ]


def _records(content: bytes) -> list[Record]:
    assert content[:4] == b":W&B"
    found, pending, position = [], b"", FILE_HEADER
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        data = content[position + 7 : position + 7 + length]
        position += 7 + length
        pending = data if kind in (FULL, FIRST) else pending + data
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(pending)
            found.append(record)
    return found
