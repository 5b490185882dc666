"""Explain Pydantic's errors to a researcher: place, key, what is wrong, what is allowed."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from yolo.recipe.did_you_mean import FAMILIAR, nearest
from yolo.recipe.schema.fields import Key
from yolo.recipe.schema.recipe import UnresolvedRecipe

MOST_LINES = 50
"""A file that is not a recipe can have thousands of mistakes."""
KINDS = {
    "boolean": "true or false",
    "string": "text",
    "null": "null",
    "object": "a section of keys",
}
BOUNDS = {
    "minimum": "from",
    "exclusiveMinimum": "above",
    "maximum": "to",
    "exclusiveMaximum": "below",
}
Place = Callable[[Key], str]
"""Where a key was written, as the start of a message."""


def explain(error: ValidationError, values: Mapping[str, Any], place: Place) -> list[str]:
    """One line for each wrong value, in Pydantic's order."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for details in error.errors():
        by_key.setdefault(_key_of(details, values), []).append(details)
    outermost = [
        key for key in by_key if not any(key[:depth] in by_key for depth in range(len(key)))
    ]
    lines = [_explain_one(key, by_key[key], place) for key in outermost[:MOST_LINES]]
    left = len(outermost) - len(lines)
    return [*lines, f"and {left} more such mistakes"] if left else lines


def _key_of(details: ErrorDetails, values: Mapping[str, Any]) -> Key:
    """The place in the recipe. Pydantic's own also has the names of union members, which are not keys."""
    key: list[str] = []
    found: Any = values
    for element in details["loc"]:
        is_index = isinstance(found, list) and isinstance(element, int) and element < len(found)
        if is_index or (isinstance(found, Mapping) and element in found):
            found = found[element]
        elif details["type"] != "missing" or element != details["loc"][-1]:
            continue
        key.append(str(element))
    if details["type"] == "union_tag_invalid":
        key.append("type")
    return tuple(key)


def _explain_one(key: Key, errors: Sequence[ErrorDetails], place: Place) -> str:
    start = f"{place(key)}: {'.'.join(key)}:"
    first, schema = errors[0], schema_at(key)
    if first["type"] == "extra_forbidden":
        kind = next((word for word in first["loc"] if word not in key), None)
        allowed = sorted(schema_at(key[:-1], kind).get("properties", {}))
        of_kind = f" of type {kind}" if kind else ""
        hint = _hint(key[-1].lower(), allowed)
        return f"{start} there is no such key{of_kind}.{hint} Allowed here: {', '.join(allowed)}"
    if first["type"] == "missing":
        return f"{start} is missing; expected {allowed_values(schema)}"
    given = first["ctx"]["tag"] if first["type"] == "union_tag_invalid" else first.get("input")
    found = json.dumps(given, default=str)
    if len(found) > 60:
        found = found[:57] + "..."
    # Those of our own validators, each with a message that follows the value.
    reasons = [
        str(details["ctx"]["error"]) for details in errors if details["type"] == "value_error"
    ]
    if len(errors) == len(reasons):
        return f"{start} {found} {reasons[0]}"
    hint = nearest(given, words_of(schema)) if isinstance(given, str) else ""
    reason = f" ({reasons[0]})" if reasons else ""
    return f"{start} found {found}, expected {allowed_values(schema)}{reason}.{hint}"


def _hint(word: str, allowed: Sequence[str]) -> str:
    """What was meant by an unknown key: another section's, another spelling, or another trainer's name for it."""
    return _elsewhere(word) or nearest(word, allowed) or _elsewhere(FAMILIAR.get(word, ""))


def _elsewhere(word: str) -> str:
    sections = schema_at(())["properties"]
    found = [
        f"{section}.{word}"
        for section in sections
        if word in schema_at((section,)).get("properties", {})
    ]
    return f" Did you mean {' or '.join(map(repr, found))}?" if found else ""


def schema_at(key: Key, kind: str | int | None = None) -> dict[str, Any]:
    """The JSON Schema of one key, references resolved; empty for an unknown key.

    If a key has a choice of sections: the schema of type `kind`, or the keys of all types.
    """
    schema = _resolved(_recipe_schema(), kind)
    for word in key:
        if "properties" in schema:
            schema = schema["properties"].get(word, {})
        else:
            items = dict(enumerate(schema.get("prefixItems", [])))
            schema = items.get(int(word) if word.isdigit() else -1, schema.get("items", {}))
        schema = _resolved(schema, kind)
    return schema


@cache
def _recipe_schema() -> dict[str, Any]:
    return UnresolvedRecipe.model_json_schema()


def _resolved(schema: dict[str, Any], kind: str | int | None = None) -> dict[str, Any]:
    """Follow `$ref`; from a choice of sections take the one of type `kind`, or the union of their keys."""
    if "$ref" in schema:
        followed = _recipe_schema()["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        own = {word: value for word, value in schema.items() if word != "$ref"}
        return _resolved(followed | own, kind)
    options = [_resolved(option) for option in schema.get("oneOf", [])]
    options = [o for o in options if o["properties"]["type"]["const"] == kind] or options
    if options:
        merged: dict[str, Any] = {}
        for word, value in chain.from_iterable(o["properties"].items() for o in options):
            merged[word] = _either(merged.get(word, value), value)
        return schema | {"properties": merged, "type": "object"}
    if "anyOf" in schema:
        return schema | {"anyOf": [_resolved(option) for option in schema["anyOf"]]}
    return schema


def _either(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    keywords = (one.keys() | other.keys()) - {"default", "title", "description"}
    is_same = all(one.get(keyword) == other.get(keyword) for keyword in keywords)
    return one if is_same else {"anyOf": [one, other]}


def words_of(schema: Mapping[str, Any]) -> Iterable[str]:
    """The words that a schema allows."""
    if "const" in schema:
        yield str(schema["const"])
    yield from (str(word) for word in schema.get("enum", []))
    for option in schema.get("anyOf", []):
        yield from words_of(option)


def allowed_values(schema: Mapping[str, Any]) -> str:
    """A schema as text: `"auto" or a whole number from 1 to 64 (images)`."""
    unit = f" ({schema['unit']})" if "unit" in schema else ""
    return _allowed(schema) + unit


def _allowed(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_allowed(option) for option in schema["anyOf"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value) for value in schema["enum"])
    kind = schema.get("type")
    if kind in ("integer", "number"):
        bounds = (
            f" {words} {schema[bound]:g}" for bound, words in BOUNDS.items() if bound in schema
        )
        return ("a whole number" if kind == "integer" else "a number") + "".join(bounds)
    if kind == "array":
        items = schema.get("prefixItems")
        return f"a list of {len(items)}" if items else "a list"
    return KINDS.get(str(kind), "a value")
