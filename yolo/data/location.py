"""Check that the files of a recipe's `data` section are on this machine. Needs no torch."""

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
    """An error line per missing folder, annotation file or shard index; URLs and commands are not checked."""
    if data.format != "shards" and (error_line := missing_root(data)):
        yield error_line
        return
    for split in ("train", "val"):
        path = Path(data.root) / getattr(data, split)
        if data.format == "shards":
            try:
                local_index(data, split)
            except DataError as error:
                yield str(error)
        elif not path.is_file():
            yield f"data.{split}: {path}: no such file; set data.root, data.train and data.val"
