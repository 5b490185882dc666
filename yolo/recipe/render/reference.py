"""The reference page of all recipe keys and the JSON Schema for editors, from the docstrings of the schema."""

import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from yolo.recipe.load.validation_errors import allowed_values, schema_at
from yolo.recipe.schema.fields import Key
from yolo.recipe.schema.recipe import UnresolvedRecipe


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for completion in editors; `extends` included."""
    schema = UnresolvedRecipe.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "YOLOv5 recipe"
    schema["properties"] = {
        "extends": {
            "type": "string",
            "description": "Another recipe, relative to this one; state only what differs.",
        }
    } | schema["properties"]
    schema.pop("required", None)  # a recipe that extends another may omit any key
    return schema


def reference_page() -> str:
    """Every key with its type, default, unit and meaning, as Markdown."""
    lines = [
        "# Reference of all keys",
        "",
        "Every key of a recipe, with its default, what it allows, its unit and its meaning. `extends: other.yaml` starts from "
        "another recipe. `auto` values are computed; `yolo config` shows them.",
    ]
    lines += _rows("", UnresolvedRecipe, ())
    return "\n".join(lines) + "\n"


def _rows(title: str, model: type[BaseModel], key: Key) -> Iterator[str]:
    sections: list[tuple[str, tuple[type[BaseModel], ...]]] = []
    plain: list[str] = []
    for name, field in model.model_fields.items():
        parts = get_args(field.annotation) or (field.annotation,)
        models = tuple(p for p in parts if isinstance(p, type) and issubclass(p, BaseModel))
        if models:
            sections.append((name, models))
        else:
            plain.append(_row((*key, name), field))
    if plain:
        if title:
            yield from ("", f"## {title}", "", (model.__doc__ or "").strip())
        yield from ("", "| key | default | allowed | meaning |", "|---|---|---|---|", *plain)
    for name, models in sections:
        for section in models:
            place = ".".join((*key, name))
            kind = section.model_fields.get("type")
            of_type = f" of type {kind.default}" if len(models) > 1 and kind else ""
            yield from _rows(f"`{place}`{of_type}", section, (*key, name))


def _row(key: Key, field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    shown = "required" if field.is_required() else f"`{json.dumps(default)}`"
    allowed = allowed_values(schema_at(key)).replace("|", "\\|")
    return f"| `{'.'.join(key)}` | {shown} | {allowed} | {(field.description or '').strip()} |"
