"""From files and overrides to one validated recipe that knows where each value came from."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from yolo.errors import RecipeError
from yolo.recipe.deepspeed.passthrough import passthrough_problems
from yolo.recipe.load.provenance import DEFAULT, Origin, Source
from yolo.recipe.load.secrets import refuse_keys
from yolo.recipe.load.validation_errors import explain
from yolo.recipe.load.yaml_source import (
    MAX_DEPTH,
    Document,
    Key,
    Position,
    parse_value,
    read_document,
)
from yolo.recipe.plain_text import is_plain
from yolo.recipe.schema.optimizer import ADAM_FAMILY, ADAM_PARAMETERS
from yolo.recipe.schema.recipe import UnresolvedRecipe

MAX_PARENTS = 10


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """A recipe as it was written, `auto` values not yet computed."""

    path: Path
    recipe: UnresolvedRecipe
    origins: Mapping[Key, Origin]
    """Of every value that is not a default."""
    values: Mapping[str, Any]
    """What files and overrides state, merged but without defaults."""

    @property
    def name(self) -> str:
        """The file's name without its ending; names the run's folder."""
        return self.path.stem

    def place(self, key: Key) -> str:
        """Where a key, or the nearest section around it, was written."""
        return _place(key, self.origins, self.path)

    def with_values(self, *overrides: str) -> "LoadedRecipe":
        """Put overrides such as `train.epochs=30` on top, without reading the file again; the later wins.

        Raises RecipeError with one line for each mistake.
        """
        return _override(self.path, deepcopy(dict(self.values)), dict(self.origins), overrides)


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read a recipe, the recipes it extends, and overrides such as `train.epochs=30`; the later wins.

    Raises RecipeError with one line for each mistake.
    """
    path = Path(path)
    values: dict[str, Any] = {}
    origins: dict[Key, Origin] = {}
    for file, document in _family(path):
        source = Source.FILE if file == path else Source.PARENT
        own = {key: Origin(source, str(position)) for key, position in document.positions.items()}
        _merge(values, document.values, (), origins, own)
    return _override(path, values, origins, overrides)


def _override(
    path: Path, values: dict[str, Any], origins: dict[Key, Origin], overrides: Sequence[str]
) -> LoadedRecipe:
    """Merge overrides into values and origins, both changed in place, and validate the result."""
    for text in overrides:
        key, value = _parse_override(text)
        _check_parents(key, values, text)
        nested: Any = value
        for word in reversed(key):
            nested = {word: nested}
        origin = Origin(Source.OVERRIDE, text)
        own = {key[: depth + 1]: origin for depth in range(len(key))}
        _merge(values, nested, (), origins, own | _below(key, value, origin))
    return LoadedRecipe(path, _validate(values, origins, path), origins, values)


def _family(path: Path) -> list[tuple[Path, Document]]:
    """A recipe's ancestors, oldest first, and itself."""
    family: list[tuple[Path, Document]] = []
    asked_by: Position | None = None
    while True:
        if any(path == file for file, _ in family) or len(family) > MAX_PARENTS:
            raise RecipeError(f"{asked_by}: extends: {path} leads back to a recipe that extends it")
        try:
            document = read_document(path)
        except RecipeError as error:
            raise RecipeError(
                f"{asked_by}: extends: {error}" if asked_by else str(error)
            ) from error
        parent = document.values.get("extends")
        values = {word: value for word, value in document.values.items() if word != "extends"}
        family.insert(0, (path, Document(values, document.positions)))
        if "extends" not in document.values:
            return family
        asked_by = document.positions[("extends",)]
        if not isinstance(parent, str):
            raise RecipeError(f"{asked_by}: extends: expected the path of another recipe")
        path = path.parent / parent


def _merge(
    values: dict[str, Any],
    newer: Mapping[str, Any],
    key: Key,
    origins: dict[Key, Origin],
    own: Mapping[Key, Origin],
) -> None:
    """Lay newer values over older ones, section by section; lists and plain values are replaced whole."""
    for word, value in newer.items():
        place = (*key, word)
        if place == ("optimizer",) and isinstance(value, Mapping):
            _forget_other_optimizer(values, value, origins)
        origins[place] = own.get(place, DEFAULT)
        if isinstance(value, Mapping) and isinstance(values.get(word), dict):
            _merge(values[word], value, place, origins, own)
        else:
            if word in values:
                for old in [k for k in origins if k[: len(place)] == place and k != place]:
                    del origins[old]
            values[word] = {}
            if isinstance(value, Mapping):
                _merge(values[word], value, place, origins, own)
            else:
                values[word] = value


def _forget_other_optimizer(
    values: dict[str, Any], newer: Mapping[str, Any], origins: dict[Key, Origin]
) -> None:
    """Another type of optimizer has other parameters: the parent's are carried over only where they mean the same."""
    older = values.get("optimizer")
    if isinstance(older, dict) and newer.get("type", older.get("type")) != older.get("type"):
        is_one_family = newer["type"] in ADAM_FAMILY and older.get("type") in ADAM_FAMILY
        kept = ADAM_PARAMETERS if is_one_family else ()
        values["optimizer"] = {word: older[word] for word in kept if word in older}
        stays = [("optimizer", word) for word in kept]
        for key in [key for key in origins if key[0] == "optimizer" and key[:2] not in stays]:
            del origins[key]


def _parse_override(text: str) -> tuple[Key, Any]:
    name, equals, value = text.partition("=")
    refuse_keys(text, "an override")  # which one would say the key
    key = tuple(name.split("."))
    if not equals or not all(key) or len(key) > MAX_DEPTH:
        raise RecipeError(f"override {text!r}: expected section.key=value, as in train.epochs=30")
    if not is_plain(name):
        raise RecipeError(f"override {text!r}: its key holds what cannot be shown")
    return key, parse_value(value, f"override {text!r}")


def _check_parents(key: Key, values: Mapping[str, Any], text: str) -> None:
    found: Any = values
    for depth, word in enumerate(key[:-1]):
        found = found.get(word, {})
        if not isinstance(found, Mapping):
            raise RecipeError(
                f"override {text!r}: {'.'.join(key[: depth + 1])} is a value, not a section"
            )


def _below(key: Key, value: Any, origin: Origin) -> dict[Key, Origin]:
    if not isinstance(value, Mapping):
        return {}
    below = {}
    for word, inner in value.items():
        below[(*key, str(word))] = origin
        below |= _below((*key, str(word)), inner, origin)
    return below


def _validate(
    values: dict[str, Any], origins: Mapping[Key, Origin], path: Path
) -> UnresolvedRecipe:
    optimizer = values.get("optimizer")
    if isinstance(optimizer, dict):  # Pydantic needs the union's discriminator
        values = values | {"optimizer": {"type": "SGD"} | optimizer}

    def place(key: Key) -> str:
        return _place(key, origins, path)

    try:
        # In JSON mode, because Pydantic's strict mode refuses lists for tuples in Python mode.
        recipe = UnresolvedRecipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise RecipeError("\n".join(explain(error, values, place))) from error
    problems = [
        f"{place(('deepspeed', *key))}: deepspeed.{'.'.join(key)}: {text}"
        for key, text in passthrough_problems(recipe.deepspeed)
    ]
    if problems:
        raise RecipeError("\n".join(problems))
    return recipe


def _place(key: Key, origins: Mapping[Key, Origin], path: Path) -> str:
    for length in range(len(key), 0, -1):
        origin = origins.get(key[:length])
        if origin is not None and origin.place:
            is_override = origin.source is Source.OVERRIDE
            return f"override {origin.place!r}" if is_override else origin.place
    return str(path)
