"""The recipe's `deepspeed:` section: keys handed through to DeepSpeed, none of them unread or misread.

DeepSpeed ignores an unknown top-level key in silence. What the pinned version reads, and of what type, is in
schema.json, taken from DeepSpeed itself by `python -m yolo.training.engine.write_schema`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from yolo.recipe.load.did_you_mean import nearest
from yolo.recipe.load.yaml_source import Key

SNAPSHOT = Path(__file__).with_name("schema.json")

OWNED = MappingProxyType(
    {
        "train_batch_size": "train.global_batch",
        "train_micro_batch_size_per_gpu": "train.micro_batch",
        "gradient_accumulation_steps": "train.gradient_accumulation_steps",
        "gradient_clipping": "train.gradient_clipping",
        "optimizer": "optimizer",
        "scheduler": "train.schedule",
        "torch_autocast": "precision.dtype",
        "communication_data_type": "communication.data_type",
        "wandb": "tracking.wandb",
        "zero_allow_untested_optimizer": "optimizer.type",
        "steps_per_print": "tracking.log_every_steps",
        "zero_optimization.stage": "zero.stage",
        "zero_optimization.overlap_comm": "zero.overlap_comm",
        "zero_optimization.reduce_bucket_size": "zero.reduce_bucket_size",
        "zero_optimization.contiguous_gradients": "zero.contiguous_gradients",
        "zero_optimization.use_multi_rank_bucket_allreduce": "zero.use_multi_rank_bucket_allreduce",
        "zero_optimization.round_robin_gradients": "zero.round_robin_gradients",
        "zero_optimization.offload_optimizer": "zero.offload_optimizer",
        "zero_optimization.stage3_param_persistence_threshold": "zero.stage3_param_persistence_threshold",
        "zero_optimization.stage3_prefetch_bucket_size": "zero.stage3_prefetch_bucket_size",
    }
)
"""DeepSpeed's key, and the recipe's that sets it."""

_CASTS = (
    "casts the network's parameters, and BatchNorm then fails or forgets; set precision.dtype, "
    "which computes in 16 bits and keeps parameters in fp32"
)
_LANGUAGE_MODELS = "is for language models and does nothing good for YOLOv5; remove it"
_FITS = (
    "moves parameters away from where they are averaged, and yolov5x's take 0.35 GB; remove it (the optimizer's state is "
    "moved by zero.offload_optimizer)"
)
_LOADS_DATA = "concerns DeepSpeed's own data loader, which is not used here; see `data`"
REFUSED = MappingProxyType(
    {
        "bf16": _CASTS,
        "fp16": _CASTS,
        "data_types": _CASTS,
        "autotuning": "starts DeepSpeed's own search, which would restart this run; remove it",
        "gradient_allreduce_op": "would multiply the gradient by the world size; the loss is normalised for the mean",
        "managed_gradient_accumulation": "would leave accumulation to nobody; set train.gradient_accumulation_steps",
        "disable_allgather": "is read by no part of DeepSpeed; remove it",
        "tensor_parallel": _LANGUAGE_MODELS,
        "expert_parallel": _LANGUAGE_MODELS,
        "use_data_before_expert_parallelism": _LANGUAGE_MODELS,
        "seq_parallel_communication_data_type": _LANGUAGE_MODELS,
        "pipeline": _LANGUAGE_MODELS,
        "hybrid_engine": _LANGUAGE_MODELS,
        "weight_quantization": _LANGUAGE_MODELS,
        "data_efficiency": _LOADS_DATA,
        "dataloader_drop_last": _LOADS_DATA,
        "timers": "would wait for the device at every step, for images/s that are measured without it; remove it",
        "zero_optimization.offload_param": _FITS,
        "zero_optimization.cpu_offload_param": _FITS,
    }
)

Problem = tuple[Key, str]


def passthrough_problems(section: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a `deepspeed:` section, as (key within the section, message)."""
    return list(_problems(section)) if section else []


def deepspeed_version() -> str:
    """The version that the checks were taken from."""
    return str(_snapshot()["deepspeed_version"])


@cache
def _snapshot() -> Mapping[str, Any]:
    snapshot: dict[str, Any] = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    return snapshot


def _problems(section: Mapping[str, Any]) -> Iterator[Problem]:
    known = _snapshot()["keys"]
    for word, value in section.items():
        if word in _snapshot()["removed"]:
            yield (word,), _snapshot()["removed"][word]
        elif word in OWNED:
            yield (word,), f"is set by {OWNED[word]}; set that instead"
        elif word in REFUSED:
            yield (word,), REFUSED[word]
        elif word not in known:
            yield (word,), _unread(word, sorted(set(known) - set(REFUSED)))
        else:
            yield from _section_problems(word, value, known[word])


def _unread(word: str, known: Sequence[str]) -> str:
    owned_by = next((OWNED[key] for key in OWNED if nearest(word, known).endswith(f"{key!r}?")), "")
    return (
        f"DeepSpeed {deepspeed_version()} does not read this key and would ignore it in silence."
        f"{nearest(word, known)}{f' It is set by {owned_by}.' if owned_by else ''}"
        f" Allowed here: {', '.join(key for key in known if key not in OWNED)}"
    )


def _section_problems(word: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        for inner in value:
            if word == "zero_optimization" and inner in _snapshot()["removed_zero"]:
                yield (word, inner), _snapshot()["removed_zero"][inner]
                return
            if f"{word}.{inner}" in OWNED:
                yield (word, inner), f"is set by {OWNED[f'{word}.{inner}']}; set that instead"
                return
            if f"{word}.{inner}" in REFUSED:
                yield (word, inner), REFUSED[f"{word}.{inner}"]
                return
        if word == "comms_logger" and value.get("enabled", True) is False:
            yield (
                (word, "enabled"),
                "DeepSpeed turns the logger on wherever this section stands, even at false; remove the section",
            )
            return
    yield from _schema_problems(word, value, schema)


def _schema_problems(word: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Problem]:
    from jsonschema import (
        Draft202012Validator,
    )  # costs 0.1 s, and most recipes pass nothing through

    for error in Draft202012Validator(schema).iter_errors(value):
        key = (word, *(str(element) for element in error.absolute_path))
        unknown = error.validator == "additionalProperties" and isinstance(error.instance, dict)
        if unknown:
            allowed = sorted(error.schema.get("properties", {}))
            for inner in sorted(set(error.instance) - set(allowed)):
                yield (
                    (*key, inner),
                    f"there is no such key.{nearest(inner, allowed)} Allowed here: {', '.join(allowed)}",
                )
        else:
            yield key, f"found {json.dumps(error.instance)}: {error.message}"
