"""The JSON configuration that DeepSpeed reads, for a resolved recipe.

Every key whose default in DeepSpeed would silently change the training is written out (`gradient_clipping` is 1.0 there).
No key is written whose mere presence does harm (`comms_logger`, even at false).
"""

import json
from collections.abc import Mapping
from typing import Any

from yolo.recipe.schema.optimizer import SGDSection
from yolo.recipe.schema.recipe import Recipe

Json = dict[str, Any]

NOMINAL_BATCH = 64
"""The global batch for which the public YOLOv5 states its weight decay."""
TORCH_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def deepspeed_config(recipe: Recipe) -> Json:
    """DeepSpeed's configuration."""
    config: Json = {
        # DeepSpeed counts a micro batch per rank, also if several ranks share its images.
        "train_batch_size": recipe.train.global_batch * recipe.sharding.columns,
        "train_micro_batch_size_per_gpu": recipe.train.micro_batch,
        "gradient_accumulation_steps": recipe.train.gradient_accumulation_steps,
        "gradient_clipping": recipe.train.gradient_clipping,
        "optimizer": _optimizer(recipe),
        "zero_optimization": _zero(recipe),
        # One line per step from DeepSpeed itself would drown our own log.
        "steps_per_print": 10**9,
        # Its throughput timer waits for the device at every step.
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
    }
    if recipe.zero.stage > 0 and recipe.optimizer.type == "SGD":
        config["zero_allow_untested_optimizer"] = True
    if recipe.precision.dtype == "fp32" or recipe.zero.stage == 0:
        config["communication_data_type"] = recipe.communication.data_type
    if recipe.precision.dtype != "fp32":
        config["torch_autocast"] = {"enabled": True, "dtype": TORCH_DTYPES[recipe.precision.dtype]}
    return _merged(config, recipe.deepspeed)


def canonical_text(config: Mapping[str, Any]) -> str:
    """The same bytes for the same configuration, as in ds_configs/."""
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def weight_decay(recipe: Recipe) -> float:
    """The decay that the optimizer receives.

    SGD adds it to a gradient that is a sum over the global batch, so it grows with the batch to keep the balance that
    the recipe states for 64 images. AdamW's is decoupled from the gradient and is not scaled.
    """
    if isinstance(recipe.optimizer, SGDSection):
        return recipe.optimizer.weight_decay * recipe.train.global_batch / NOMINAL_BATCH
    return recipe.optimizer.weight_decay


def _optimizer(recipe: Recipe) -> Json:
    params = recipe.optimizer.model_dump(mode="json", exclude={"type"})
    params["weight_decay"] = weight_decay(recipe)
    # DeepSpeed no longer knows the 1-bit types: it receives our optimizer object, and this section only documents it.
    if recipe.optimizer.type == "AdamW" and recipe.zero.offload_optimizer == "none":
        # torch's own, because DeepSpeed's FusedAdam compiles C++ or CUDA at the first start.
        params["torch_adam"] = True
        params["fused"] = True  # one pass over all tensors instead of several over each
    if recipe.optimizer.type == "SGD":
        params["fused"] = True
    return {"type": recipe.optimizer.type, "params": params}


def _zero(recipe: Recipe) -> Json:
    zero = recipe.zero
    if zero.stage == 0:
        return {"stage": 0}
    words = ["stage", "overlap_comm", "reduce_bucket_size", "contiguous_gradients"]
    if zero.stage == 3:
        words += ["stage3_param_persistence_threshold", "stage3_prefetch_bucket_size"]
    else:
        words += ["use_multi_rank_bucket_allreduce", "round_robin_gradients"]
    config: Json = {word: getattr(zero, word) for word in words}
    if zero.offload_optimizer != "none":
        config["offload_optimizer"] = {"device": zero.offload_optimizer}
    return config


def _merged(config: Json, further: Mapping[str, Any]) -> Json:
    """Add `further` to `config`, section by section; the two never set the same key."""
    merged = {**config, **further}
    for word, value in further.items():
        if isinstance(config.get(word), dict) and isinstance(value, Mapping):
            merged[word] = _merged(config[word], value)
    return merged
