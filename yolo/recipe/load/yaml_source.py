"""Read YAML text as plain values, with the file and line of each.

YAML 1.2 by ruamel.yaml: 1e-3 and 5e8 are numbers, `on` is a word and a duplicate key is an error; PyYAML reads all three
differently. Only plain values are built, whatever tag the text has.
"""

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from reprlib import repr as shown
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from yolo.errors import RecipeError
from yolo.recipe.did_you_mean import nearest
from yolo.recipe.load.safe_read import MOST_RECIPE_BYTES, read_text
from yolo.recipe.plain_text import is_plain, refuse_keys
from yolo.recipe.schema.fields import Key

MAX_DEPTH = 12
PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


@dataclass(frozen=True, slots=True)
class Document:
    """The values of one YAML text, and the position `file:line` of each key."""

    values: Mapping[str, Any]
    positions: Mapping[Key, str]


def read_document(path: Path) -> Document:
    """Read a file. Raises RecipeError with file and line if it is not a mapping of plain values."""
    try:
        text = read_text(path, MOST_RECIPE_BYTES)
    except FileNotFoundError as error:
        near = nearest(path.name, (other.name for other in path.parent.glob("*.yaml")))
        raise RecipeError(f"{path}: no such file; `yolo recipes` lists them.{near}") from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path}: is a folder; name a recipe (*.yaml) in it") from error
    except OSError as error:
        raise RecipeError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: is not text in UTF-8: {error}") from error
    return parse_document(text, str(path))


def parse_document(text: str, name: str) -> Document:
    """Read a YAML text; messages name it `name`."""
    refuse_keys(text, name)
    yaml = YAML(typ="safe", pure=True)
    root = compose(yaml, text, name)
    if root is None:
        return Document({}, {})
    if not isinstance(root, MappingNode):
        raise RecipeError(f"{name}:1: expected lines of `key: value`, found something else")
    positions: dict[Key, str] = {}
    return Document(_plain(yaml, root, (), name, positions), positions)


def parse_value(text: str, name: str) -> Any:
    """Read one value, as on the right of `key:` in a recipe; for overrides on the command line."""
    yaml = YAML(typ="safe", pure=True)
    root = compose(yaml, text, name)
    return None if root is None else _plain(yaml, root, (), name, {})


def compose(yaml: YAML, text: str, name: str) -> Node | None:
    """Parse a text into nodes, of which nothing is built. Raises RecipeError with the line."""
    brackets = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", text))
    # With thousands open at once the parser takes seconds; those in quotes and comments count too.
    if max(accumulate(brackets), default=0) > 10 * MAX_DEPTH:
        raise RecipeError(f"{name}: brackets nested deeper than {MAX_DEPTH} levels")
    try:
        return cast(Node | None, yaml.compose(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = error.problem or error.context or "not YAML"
        raise RecipeError(f"{name}:{line}: not YAML: {problem}") from error
    except (YAMLError, RecursionError) as error:
        raise RecipeError(f"{name}: not YAML: {str(error).splitlines()[0]}") from error


def _plain(yaml: YAML, node: Node, key: Key, name: str, positions: dict[Key, str]) -> Any:
    """Convert a node to plain values, and add the positions of its keys."""
    line = node.start_mark.line + 1
    where = f"{name}:{line}: {'.'.join(key) or 'recipe'}"
    if node.anchor:
        raise RecipeError(f"{where}: anchors and aliases are not read; use `extends:` to share")
    if not isinstance(node, ScalarNode) and str(node.tag) not in PLAIN_TAGS:
        raise RecipeError(f"{where}: the tag {node.tag} is not read; write plain values")
    if len(key) > MAX_DEPTH:
        raise RecipeError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if isinstance(node, ScalarNode):
        return _scalar(yaml, node, where)
    if isinstance(node, SequenceNode):
        return [
            _plain(yaml, item, (*key, str(index)), name, positions)
            for index, item in enumerate(node.value)
        ]
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        word = key_node.value if isinstance(key_node, ScalarNode) else None
        if not isinstance(word, str):
            raise RecipeError(f"{name}:{key_node.start_mark.line + 1}: a key must be one word")
        if not is_plain(word):
            raise RecipeError(f"{where}: the key {word!r} has characters that cannot be shown")
        place = (*key, word)
        here = f"{name}:{key_node.start_mark.line + 1}"
        if word in values:
            first = positions[place].rpartition(":")[2]
            raise RecipeError(f"{here}: {'.'.join(place)}: already set in line {first}; keep one")
        positions[place] = here
        values[word] = _plain(yaml, value_node, place, name, positions)
    return values


def _scalar(yaml: YAML, node: ScalarNode, where: str) -> Any:
    try:
        value = yaml.constructor.construct_object(node)
    except (YAMLError, ValueError, KeyError, AttributeError) as error:  # ruamel.yaml's own
        raise RecipeError(f"{where}: {shown(node.value)} cannot be read as {node.tag}") from error
    if isinstance(value, str) and not is_plain(value):
        raise RecipeError(
            f"{where}: {shown(value)} has characters that cannot be shown or name a file"
        )
    if isinstance(value, datetime.date | bytes):
        raise RecipeError(f"{where}: {node.value} is read as a date or bytes; put it in quotes")
    return value
