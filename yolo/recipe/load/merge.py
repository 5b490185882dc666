"""Merge files and overrides into one validated recipe that knows where each value came from."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from yolo.errors import RecipeError
from yolo.recipe.deepspeed.passthrough import passthrough_problems
from yolo.recipe.load.validation_errors import explain
from yolo.recipe.load.yaml_source import MAX_DEPTH, Document, parse_value, read_document
from yolo.recipe.plain_text import is_plain, refuse_keys
from yolo.recipe.schema.fields import Key
from yolo.recipe.schema.optimizer import ADAM_FAMILY, ADAM_PARAMETERS
from yolo.recipe.schema.recipe import UnresolvedRecipe

MAX_PARENTS = 10


class Source(StrEnum):
    """The kinds of sources of a value, weakest first."""

    DEFAULT = "default"
    PARENT = "parent recipe"
    FILE = "recipe"
    OVERRIDE = "override"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Origin:
    """A value's source, and the place in it: file and line, the override, or a formula and its reason."""

    source: Source
    place: str = ""

    def __str__(self) -> str:
        if self.source is Source.FILE:
            return self.place
        return f"{self.source}: {self.place}" if self.place else str(self.source)


DEFAULT = Origin(Source.DEFAULT)


@dataclass(frozen=True, slots=True)
class RecipeValues:
    """What files and overrides state, merged but without defaults, and where each value came from."""

    path: Path
    values: dict[str, Any]
    origins: dict[Key, Origin]
    """The origin of every value that is not a default."""

    def place(self, key: Key) -> str:
        """Where a key, or the nearest section around it, was written."""
        for length in range(len(key), 0, -1):
            origin = self.origins.get(key[:length])
            if origin is not None and origin.place:
                is_override = origin.source is Source.OVERRIDE
                return f"override {origin.place!r}" if is_override else origin.place
        return str(self.path)

    def forget(self, key: Key, kept: Sequence[Key] = ()) -> None:
        """Drop the origins of the values inside a section, except the `kept` ones."""
        depth = len(key)
        for old in [old for old in self.origins if old[:depth] == key and len(old) > depth]:
            if old[: depth + 1] not in kept:
                del self.origins[old]


@dataclass(frozen=True, slots=True)
class LoadedRecipe(RecipeValues):
    """A recipe as it was written, before its `auto` values are computed."""

    recipe: UnresolvedRecipe

    @property
    def name(self) -> str:
        """The file's name without its ending; it names the run's folder."""
        return self.path.stem

    def with_values(self, *overrides: str) -> "LoadedRecipe":
        """Put overrides such as `train.epochs=30` on top, without reading the file again; the later wins.

        Raises RecipeError with one line for each mistake.
        """
        copy = RecipeValues(self.path, deepcopy(self.values), dict(self.origins))
        return _override(copy, overrides)


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe, the recipes it extends, and overrides such as `train.epochs=30`; the later wins.

    Raises RecipeError with one line for each mistake.
    """
    merged = RecipeValues(Path(path), {}, {})
    for file, document in _with_parents(merged.path):
        source = Source.FILE if file == merged.path else Source.PARENT
        own = {key: Origin(source, place) for key, place in document.positions.items()}
        _merge(merged, merged.values, document.values, (), own)
    return _override(merged, overrides)


def _with_parents(path: Path) -> list[tuple[Path, Document]]:
    """The recipes that a recipe extends, oldest first, and itself."""
    documents: list[tuple[Path, Document]] = []
    extended_at: str | None = None
    while True:
        if any(path == file for file, _ in documents) or len(documents) > MAX_PARENTS:
            raise RecipeError(
                f"{extended_at}: extends: {path} leads back to a recipe that extends it"
            )
        try:
            document = read_document(path)
        except RecipeError as error:
            raise RecipeError(
                f"{extended_at}: extends: {error}" if extended_at else str(error)
            ) from error
        values = dict(document.values)
        is_child, parent = "extends" in values, values.pop("extends", None)
        documents.insert(0, (path, Document(values, document.positions)))
        if not is_child:
            return documents
        extended_at = document.positions[("extends",)]
        if not isinstance(parent, str):
            raise RecipeError(f"{extended_at}: extends: expected the path of another recipe")
        path = path.parent / parent


def _override(merged: RecipeValues, overrides: Sequence[str]) -> LoadedRecipe:
    """Merge overrides into the values, which are changed in place, and validate the result."""
    for text in overrides:
        key, value = _parse_override(text)
        section: Any = merged.values
        for depth, word in enumerate(key[:-1], 1):
            section = section.get(word, {})
            if not isinstance(section, Mapping):
                raise RecipeError(
                    f"override {text!r}: {'.'.join(key[:depth])} is a value, not a section"
                )
        for word in reversed(key):
            value = {word: value}
        _merge(merged, merged.values, value, (), Origin(Source.OVERRIDE, text))
    return LoadedRecipe(merged.path, merged.values, merged.origins, _validate(merged))


def _merge(
    merged: RecipeValues,
    section: dict[str, Any],
    newer: Mapping[str, Any],
    key: Key,
    own: Mapping[Key, Origin] | Origin,
) -> None:
    """Put newer values over older ones, section by section; lists and plain values are replaced."""
    for word, value in newer.items():
        place = (*key, word)
        is_section = isinstance(value, Mapping)
        if place == ("optimizer",) and is_section:
            _forget_other_optimizer(merged, value)
        merged.origins[place] = own if isinstance(own, Origin) else own[place]
        if not (is_section and isinstance(section.get(word), dict)):
            merged.forget(place)
            section[word] = {} if is_section else value
        if is_section:
            _merge(merged, section[word], value, place, own)


def _forget_other_optimizer(merged: RecipeValues, newer: Mapping[str, Any]) -> None:
    """Another type of optimizer has other parameters: the parent's stay only if they mean the same."""
    older = merged.values.get("optimizer")
    if isinstance(older, dict) and newer.get("type", older.get("type")) != older.get("type"):
        is_one_family = newer["type"] in ADAM_FAMILY and older.get("type") in ADAM_FAMILY
        kept = ADAM_PARAMETERS if is_one_family else ()
        merged.values["optimizer"] = {word: older[word] for word in kept if word in older}
        merged.forget(("optimizer",), [("optimizer", word) for word in kept])


def _parse_override(text: str) -> tuple[Key, Any]:
    name, equals, value = text.partition("=")
    refuse_keys(text, "an override")  # does not name which one: the text would show the key
    key = tuple(name.split("."))
    if not equals or not all(key) or len(key) > MAX_DEPTH:
        raise RecipeError(f"override {text!r}: expected section.key=value, as in train.epochs=30")
    if not is_plain(name):
        raise RecipeError(f"override {text!r}: its key has characters that cannot be shown")
    return key, parse_value(value, f"override {text!r}")


def _validate(merged: RecipeValues) -> UnresolvedRecipe:
    values, optimizer = merged.values, merged.values.get("optimizer")
    if isinstance(optimizer, dict):  # Pydantic needs the union's discriminator
        values = {**values, "optimizer": {"type": "SGD"} | optimizer}
    try:
        # In JSON mode, because Pydantic's strict mode refuses lists for tuples in Python mode.
        recipe = UnresolvedRecipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, values, merged.place))) from error
    problems = [
        f"{merged.place(('deepspeed', *key))}: deepspeed.{'.'.join(key)}: {text}"
        for key, text in passthrough_problems(recipe.deepspeed)
    ]
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe
