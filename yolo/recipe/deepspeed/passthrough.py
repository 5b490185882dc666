"""Check the recipe's `deepspeed:` section, whose keys are passed through to DeepSpeed.

DeepSpeed silently ignores an unknown top-level key. The keys and types that the pinned version reads are in schema.json,
extracted from DeepSpeed by `python -m tests.recipe.deepspeed.write_schema`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from yolo.recipe.did_you_mean import nearest
from yolo.recipe.schema.distributed import ZeroSection
from yolo.recipe.schema.fields import Key

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
        **{f"zero_optimization.{word}": f"zero.{word}" for word in ZeroSection.model_fields},
    }
)
"""DeepSpeed's key -> the recipe's key that sets it."""

_CASTS = (
    "casts the network's parameters, and BatchNorm then fails or forgets; set precision.dtype, "
    "which computes in 16 bits and keeps parameters in fp32"
)
_USELESS = "is for language models and of no use for YOLOv5; remove it"
_FOR_LANGUAGE_MODELS = (
    *("tensor_parallel", "expert_parallel", "use_data_before_expert_parallelism"),
    *("seq_parallel_communication_data_type", "pipeline", "hybrid_engine", "weight_quantization"),
)
_FITS = (
    "moves parameters away from the device that averages them, and yolov5x's take only 0.35 GB; remove it (to offload the "
    "optimizer's state, set zero.offload_optimizer)"
)
_LOADS_DATA = "concerns DeepSpeed's own data loader, which is not used here; set `data` instead"
REFUSED = MappingProxyType(
    {
        **dict.fromkeys(("bf16", "fp16", "data_types"), _CASTS),
        "autotuning": "starts DeepSpeed's own search, which would restart this run; remove it",
        "gradient_allreduce_op": "would multiply the gradient by the world size, and the loss is normalised for the mean; remove it",
        "managed_gradient_accumulation": "would turn off accumulation; set train.gradient_accumulation_steps",
        "disable_allgather": "is not read by DeepSpeed; remove it",
        **dict.fromkeys(_FOR_LANGUAGE_MODELS, _USELESS),
        **dict.fromkeys(("data_efficiency", "dataloader_drop_last"), _LOADS_DATA),
        "timers": "would wait for the device at every step, and images/s are measured without it; remove it",
        "zero_optimization.offload_param": _FITS,
        "zero_optimization.cpu_offload_param": _FITS,
    }
)

Problem = tuple[Key, str]


def passthrough_problems(section: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a `deepspeed:` section, as (key within the section, message)."""
    return [found for word, value in section.items() for found in _problems(word, value)]


@cache
def _snapshot() -> Mapping[str, Any]:
    return cast(Mapping[str, Any], json.loads(SNAPSHOT.read_text(encoding="utf-8")))


def _problems(word: str, value: Any) -> Iterator[Problem]:
    known = _snapshot()["keys"]
    if problem := _refusal(word, _snapshot()["removed"].get(word)):
        yield (word,), problem
    elif word not in known:
        yield (word,), _unread(word, sorted(set(known) - set(REFUSED)))
    else:
        yield from _section_problems(word, value, known[word])


def _refusal(name: str, removed: str | None) -> str | None:
    """Why a key that DeepSpeed reads or once read is not accepted here."""
    if removed or name not in OWNED:
        return removed or REFUSED.get(name)
    return f"is set by {OWNED[name]}; set that instead"


def _unread(word: str, known: Sequence[str]) -> str:
    hint = nearest(word, known)
    owned_by = next((OWNED[key] for key in OWNED if hint.endswith(f"{key!r}?")), "")
    return (
        f"DeepSpeed {_snapshot()['deepspeed_version']} does not read this key and would silently ignore it."
        f"{hint}{f' It is set by {owned_by}.' if owned_by else ''}"
        f" Allowed here: {', '.join(key for key in known if key not in OWNED)}"
    )


def _section_problems(word: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Problem]:
    if isinstance(value, Mapping):
        removed = _snapshot()["removed_zero"] if word == "zero_optimization" else {}
        for inner in value:
            if problem := _refusal(f"{word}.{inner}", removed.get(inner)):
                yield (word, inner), problem
                return
        if word == "comms_logger" and value.get("enabled", True) is False:
            yield (
                (word, "enabled"),
                "DeepSpeed turns the logger on if this section is present, even at false; remove the section",
            )
            return
    yield from _schema_problems(word, value, schema)


def _schema_problems(word: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Problem]:
    # Costs 0.1 s, and most recipes pass nothing through.
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        key = (word, *(str(element) for element in error.absolute_path))
        if error.validator == "additionalProperties" and isinstance(error.instance, dict):
            allowed = sorted(error.schema.get("properties", {}))
            for inner in sorted(set(error.instance) - set(allowed)):
                yield (
                    (*key, inner),
                    f"there is no such key.{nearest(inner, allowed)} Allowed here: {', '.join(allowed)}",
                )
        else:
            yield key, f"found {json.dumps(error.instance)}: {error.message}"
