"""The files that a recipe's `data` section names, looked for on this machine. Needs no torch."""

from collections.abc import Iterator
from pathlib import Path

from yolo.data.shards.index import local_index
from yolo.errors import DataError
from yolo.recipe.schema.data import DataSection


def missing_root(data: DataSection) -> str | None:
    """An error line if the data folder is not on this machine."""
    if Path(data.root).is_dir():
        return None
    return f"data.root: {data.root}: no such folder; set data.root=/path/to/data"


def missing_files(data: DataSection) -> Iterator[str]:
    """An error line per missing folder, annotation file or shard index; shards on a web server are not checked."""
    if data.format == "shards":
        for split in ("train", "val"):
            try:
                local_index(data, split)
            except DataError as error:
                yield str(error)
    elif error_line := missing_root(data):
        yield error_line
    else:
        for split in ("train", "val"):
            path = Path(data.root) / getattr(data, split)
            if not path.is_file():
                yield f"data.{split}: {path}: no such file; set data.root, data.train and data.val"
