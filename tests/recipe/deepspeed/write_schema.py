"""Write the keys that the installed DeepSpeed reads, and their types, for checks that must not import it.

DeepSpeed refuses unknown keys inside the sections that have a Pydantic model and ignores them in silence everywhere
else, so the second kind is found by recording the keys that `DeepSpeedConfig` reads from a dictionary.

Run `python -m tests.recipe.deepspeed.write_schema` after an upgrade; a test fails while the snapshot is out of date.
"""

import json
from typing import Annotated, Any
from unittest import mock

import deepspeed
import deepspeed.comm
from deepspeed.comm.config import CommsLoggerConfig
from deepspeed.compile.config import CompileConfig
from deepspeed.monitor.config import CometConfig, CSVConfig, TensorBoardConfig, WandbConfig
from deepspeed.runtime import config as deepspeed_config
from deepspeed.runtime.constants import CHECKPOINT_TAG_VALIDATION_MODES
from deepspeed.runtime.precision_config import DeepSpeedBF16Config, DeepSpeedFP16Config
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import BaseModel, TypeAdapter

from yolo.recipe.deepspeed.passthrough import SNAPSHOT

SECTION_MODELS: dict[str, type[BaseModel]] = {
    "zero_optimization": DeepSpeedZeroConfig,
    "bf16": DeepSpeedBF16Config,
    "fp16": DeepSpeedFP16Config,
    "comms_logger": CommsLoggerConfig,
    "compile": CompileConfig,
    "tensorboard": TensorBoardConfig,
    "wandb": WandbConfig,
    "csv_monitor": CSVConfig,
    "comet": CometConfig,
}
WATCHED_SECTIONS = ("flops_profiler", "checkpoint", "activation_checkpointing", "data_types", "aio")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
REFINED: dict[str, dict[str, dict[str, Any]]] = {
    "checkpoint": {
        "tag_validation": {
            "enum": [
                word for mode in CHECKPOINT_TAG_VALIDATION_MODES for word in (mode, mode.title())
            ]
        },
        "writer": {"type": ["object", "null"]},
    },
}
"""Types that a key's default does not show: found by passing random values to DeepSpeed."""
NEVER_READ = ("vocabulary_size", "bfloat16", "sequence_parallel_size")


class WatchedDictionary(dict[str, Any]):
    """A dictionary that records the keys read from it, and the default of each."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.read_keys: dict[str, Any] = {}

    def get(self, key: str, default: Any = None) -> Any:
        self.read_keys.setdefault(key, default)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.read_keys.setdefault(str(key), None)
        return super().__contains__(key)

    def keys(self) -> Any:
        return _WatchedKeys(self)


class _WatchedKeys:
    def __init__(self, dictionary: WatchedDictionary) -> None:
        self.dictionary = dictionary

    def __contains__(self, key: object) -> bool:
        return key in self.dictionary

    def __iter__(self) -> Any:
        return iter(list(dict.keys(self.dictionary)))


def keys_that_deepspeed_reads() -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Top-level keys and the keys of the sections without a model, each with DeepSpeed's default."""
    sections = {name: WatchedDictionary() for name in WATCHED_SECTIONS}
    watched = WatchedDictionary({"train_batch_size": 1, **sections})
    watched_copy = mock.patch.object(deepspeed_config.copy, "copy", lambda value: value)
    rank = mock.patch.object(deepspeed.comm, "get_rank", return_value=0)
    world = mock.patch.object(deepspeed.comm, "get_world_size", return_value=1)
    with watched_copy, rank, world:
        deepspeed_config.DeepSpeedConfig(watched)
    return watched.read_keys, {name: section.read_keys for name, section in sections.items()}


def schema_of_default(default: Any) -> dict[str, Any]:
    """The JSON Schema that a default value implies; a default of None implies nothing."""
    if isinstance(default, bool):
        return {"type": "boolean"}
    if isinstance(default, int | float):
        return {"type": "number"}
    if isinstance(default, str):
        return {"type": "string"}
    if isinstance(default, dict):
        return {"type": "object"}
    return {"type": "array"} if isinstance(default, list) else {}


def schema_of_model(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of one of DeepSpeed's models, field by field: the model has function fields without a schema."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        bounds = [item for item in field.metadata if not callable(item)]
        annotation: Any = Annotated[(field.annotation, *bounds)] if bounds else field.annotation
        schema = _without_titles(TypeAdapter(annotation).json_schema())
        definitions |= schema.pop("$defs", {})
        properties[field.alias or name] = schema
    whole = {"type": "object", "properties": properties, "additionalProperties": False}
    return whole | ({"$defs": definitions} if definitions else {})


def _without_titles(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {
            key: _without_titles(value)
            for key, value in schema.items()
            if not (key in ("title", "description") and isinstance(value, str))
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema


def snapshot() -> dict[str, Any]:
    """Everything `yolo.recipe.deepspeed.passthrough` needs to know about the installed DeepSpeed."""
    removed = dict(deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS)
    top_level, sections = keys_that_deepspeed_reads()
    schemas = {key: schema_of_default(default) for key, default in top_level.items()}
    for name, keys in sections.items():
        properties = {key: schema_of_default(default) for key, default in keys.items()}
        properties |= REFINED.get(name, {})
        schemas[name] = {"type": "object", "properties": properties, "additionalProperties": False}
    schemas["log_level"] = {"enum": [None, *LOG_LEVELS]}
    schemas |= {name: schema_of_model(model) for name, model in SECTION_MODELS.items()}
    for key in (*removed, *NEVER_READ):
        schemas.pop(key, None)
    return {
        "deepspeed_version": deepspeed.__version__.split("+")[0],
        "keys": dict(sorted(schemas.items())),
        "removed": dict(sorted(removed.items())),
        "removed_zero": dict(sorted(deepspeed_config._REMOVED_ZERO_CONFIG_KEYS.items())),
    }


def as_text() -> str:
    return json.dumps(snapshot(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(as_text())
    print(f"wrote {SNAPSHOT}")
