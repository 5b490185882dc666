"""Recipes drawn at random, as overrides of the demo recipe: sound ones, odd ones and hopeless ones."""

import json
from functools import cache
from typing import Any, get_args

from hypothesis import strategies as st

from tests.conftest import HAS_CPU_ADAM
from yolo.recipe.deepspeed.passthrough import OWNED, REFUSED, SNAPSHOT
from yolo.recipe.schema.distributed import Reducer

Overrides = tuple[str, ...]
WRITES_FILES = {"csv_monitor", "tensorboard", "comet", "aio", "datastates_ckpt", "dump_state"}
"""Sections that do nothing but write somewhere, or that want a service."""


def overrides() -> st.SearchStrategy[Overrides]:
    """A few settings of every kind."""
    kinds = (zero(), communication(), optimizers(), training(), passed_through())
    return st.tuples(*kinds).map(lambda parts: tuple(word for part in parts for word in part))


def some_of(values: dict[str, list[Any]], at_most: int) -> st.SearchStrategy[Overrides]:
    """Up to so many keys, each with one of its values."""

    def of(keys: list[str]) -> st.SearchStrategy[Overrides]:
        words = [st.sampled_from(values[key]).map(lambda v, k=key: setting(k, v)) for key in keys]
        return st.tuples(*words)

    keys = st.lists(st.sampled_from(sorted(values)), unique=True, max_size=at_most)
    return keys.flatmap(of)


def setting(key: str, value: Any) -> str:
    return f"{key}={value if isinstance(value, str) else json.dumps(value)}"


def zero() -> st.SearchStrategy[Overrides]:
    values = {
        "zero.overlap_comm": [True, False, "auto"],
        "zero.reduce_bucket_size": ["auto", 1, 1001, 200_000, 500_000_000],
        "zero.contiguous_gradients": [True, False],
        "zero.use_multi_rank_bucket_allreduce": [True, False],
        "zero.round_robin_gradients": [True, False],
        "zero.stage3_param_persistence_threshold": ["auto", 0, 10**9],
        "zero.stage3_prefetch_bucket_size": ["auto", 0, 10_000],
        "zero.offload_optimizer": ["none", "cpu"] if HAS_CPU_ADAM else ["none"],
    }
    stage = st.sampled_from([0, 0, 1, 2, 3]).map(lambda stage: (f"zero.stage={stage}",))
    return st.tuples(stage, some_of(values, 3)).map(lambda both: both[0] + both[1])


def communication() -> st.SearchStrategy[Overrides]:
    values = {
        "communication.reducer": list(get_args(Reducer)),
        "communication.data_type": ["auto", "fp32", "bf16", "fp16"],
        "communication.bucket_size": ["auto", 1, 50_000, 10**9],
        "communication.powersgd_rank": [1, 4, 64],
        "communication.powersgd_start_step": ["auto", 2],
        "communication.sync_every": [1, 2],
        "communication.outer_momentum": [0.0, 0.9],
        "communication.outer_one_bit": [True, False],
        "precision.dtype": ["fp32", "bf16", "fp16"],
        "model.sync_batchnorm": ["auto", True, False],
    }
    return some_of(values, 4)


def optimizers() -> st.SearchStrategy[Overrides]:
    adam = {
        "optimizer.lr": [1e-6, 0.003, 10.0],
        "optimizer.betas": ["[0.0,0.0]", "[0.9,0.999]"],
        "optimizer.eps": [1e-8, 0.1],
        "optimizer.weight_decay": [0.0, 1.0],
    }
    frozen = {"optimizer.freeze_step": ["auto", 1, 2]}
    further: dict[str, dict[str, list[Any]]] = {
        "SGD": {
            "optimizer.momentum": [0.0, 0.9],
            "optimizer.nesterov": [True, False],
            "optimizer.weight_decay": [0.0, 1.0],
        },
        "AdamW": adam,
        "OneBitAdam": adam | frozen,
        "OneBitLamb": adam
        | frozen
        | {"optimizer.min_coeff": [0.0, 0.1, 20.0], "optimizer.factor_max": [0.0, 1.0, 4.0]},
        "ZeroOneAdam": adam
        | {
            "optimizer.var_freeze_step": ["auto", 1],
            "optimizer.var_update_scaler": [1, 16],
            "optimizer.local_step_scaler": ["auto", 1],
            "optimizer.local_step_clipper": [1, 16],
        },
    }
    return st.sampled_from(["SGD", "AdamW", "AdamW", *further]).flatmap(
        lambda kind: some_of(further[kind], 2).map(lambda rest: (f"optimizer.type={kind}", *rest))
    )


def training() -> st.SearchStrategy[Overrides]:
    values = {
        "train.global_batch": [2, 3, 4, 8],
        "train.base_batch": [1, 4, 10**6],
        "train.micro_batch": ["auto", 1, 2, 3],
        "train.gradient_accumulation_steps": ["auto", 1, 2, 4],
        "train.gradient_clipping": [0.0, 1e-3, 10.0, 1e6],
        "train.warmup_epochs": [0, 3],
        "train.ema": [True, False],
        "model.image_size": [32, 64, 96],
        "communication.check_weights_every": [0, 1],
    }
    return some_of(values, 3)


def passed_through() -> st.SearchStrategy[Overrides]:
    """Keys of the `deepspeed` section: mostly none, else any that DeepSpeed has, and some that it has not."""
    values = passthrough_values()
    odd = {
        "deepspeed.gradient_acumulation_steps": [4],
        "deepspeed.zero_optimization.overlap_coms": [True],
        "deepspeed.elasticity.enabled": [False],
        "deepspeed.sparse_gradients": [False],
        "deepspeed.prescale_gradients": ["yes", 3],
    }
    return st.one_of(st.just(()), some_of(values, 2), some_of(values, 2), some_of(values | odd, 1))


@cache
def passthrough_values() -> dict[str, list[Any]]:
    """Keys that the recipe lets through, each with values of its type."""
    values: dict[str, list[Any]] = {}
    for word, schema in json.loads(SNAPSHOT.read_text())["keys"].items():
        if word in OWNED or word in REFUSED or word in WRITES_FILES:
            continue
        for key, each in schema.get("properties", {None: schema}).items():
            name = word if key is None else f"{word}.{key}"
            if name not in OWNED and name not in REFUSED:
                values[f"deepspeed.{name}"] = of_type(each)
    return values


def of_type(schema: dict[str, Any]) -> list[Any]:
    """Values that a schema allows, and where it allows everything some of all kinds."""
    if "enum" in schema:
        return [*schema["enum"], "x"]
    kinds = [each.get("type") for each in schema.get("anyOf", [schema])]
    found: list[Any] = []
    for kind in kinds:
        if kind == "boolean":
            found += [True, False]
        elif kind == "integer":
            found += [0, 1, 2, 100_000]
        elif kind == "number":
            found += [0.0, 0.5, 1.0, 2.0, 100.0]
        elif kind == "string":
            found += ["x"]
        elif kind == "array":
            found += [[], ["all_reduce"]]
        elif kind == "object":
            found += [{}]
    return found or [None, True, 1, "x"]
