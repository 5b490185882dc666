"""Read a YAML file that another program wrote, such as a data.yaml: leniently, and without building what its tags name.

Each scalar stays the text that the file has: `[007, on, 2024-01-01]` are three words, whichever version of YAML the writer
had in mind.
"""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from yolo.errors import RecipeError
from yolo.recipe.load.safe_read import MOST_RECIPE_BYTES, read_text
from yolo.recipe.load.yaml_source import MAX_DEPTH, compose

MAX_VALUES = 100_000
"""Values of a file with its aliases expanded: ten lines can expand to billions."""
NULL = "tag:yaml.org,2002:null"


def read_foreign(path: Path) -> Mapping[str, Any]:
    """A file's mapping of text to text, None, lists and mappings. Raises RecipeError with file and line, or OSError."""
    try:
        text = read_text(path, MOST_RECIPE_BYTES).expandtabs(4)  # YAML refuses tabs in places
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not text in UTF-8: {error}") from error
    root = compose(YAML(typ="safe", pure=True), text, str(path))
    if root is None:
        return {}
    if not isinstance(root, MappingNode):
        raise RecipeError(f"{path}:1: expected lines of `key: value`, found something else")
    content: Mapping[str, Any] = _value(root, path, 0, count())
    return content


def _value(node: Node, path: Path, depth: int, number: Iterator[int]) -> Any:
    place = f"{path}:{node.start_mark.line + 1}"
    if depth > MAX_DEPTH or next(number) >= MAX_VALUES:
        raise RecipeError(
            f"{place}: nested deeper than {MAX_DEPTH} levels, or aliases that expand to more than {MAX_VALUES} values"
        )
    if isinstance(node, ScalarNode):
        return None if str(node.tag) == NULL else str(node.value)
    if not isinstance(node, MappingNode):
        return [_value(item, path, depth + 1, number) for item in node.value]
    values: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise RecipeError(f"{path}:{line}: a key must be one word")
        key = str(key_node.value)
        value = _value(value_node, path, depth + 1, number)
        if key == "<<" and isinstance(value, dict):
            merged |= value
        elif values.setdefault(key, value) != value:
            raise RecipeError(f"{path}:{line}: {key}: is set twice, to different values; keep one")
    return merged | values
