"""Compute the `auto` values of a recipe for a number of ranks, each with its formula and reason."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from yolo.architecture import BATCHNORM_MOMENTUM, parameter_count
from yolo.errors import RecipeError
from yolo.recipe.load.merge import LoadedRecipe
from yolo.recipe.load.provenance import DEFAULT, Origin, Source
from yolo.recipe.load.yaml_source import Key
from yolo.recipe.resolve.batch_scaling import scaled_to_batch
from yolo.recipe.resolve.hardware import count_cores, count_gpus
from yolo.recipe.schema.data import AUGMENTATION_PRESETS
from yolo.recipe.schema.recipe import Recipe, UnresolvedRecipe

# The public YOLOv5's batch on one V100 of 16 GB at 640 pixels in fp16 (its README); fp32 fits half of it. Those of the
# P6 family are not published: as many as fill the same memory, by what the planner's snapshot says of both families.
IMAGES_ON_16_GB = {
    **{"n": 128, "s": 64, "m": 40, "l": 24, "x": 16},
    **{"n6": 128, "s6": 63, "m6": 39, "l6": 22, "x6": 14},
}
DDP_BUCKET_ELEMENTS = 25 * 2**20 // 4
"""torch DDP's 25 MiB bucket, in fp32 elements: larger ones delay the first exchange and gain nothing."""
FLUSHES = 4
"""Exchanges during one backward pass that a bucket should allow: with one there is no overlap."""
OVERLAPPED_BUCKETS = 8
"""The overlapped reducer's: more cost more latency, fewer leave more to send when backward ends."""
CPU_PROCESSES = 2
MOST_WORKERS = 8
"""Loading processes of a rank: the public YOLOv5's."""
FEW_IMAGES = 8
"""Fewer make BatchNorm's statistics rough: ResNet-50 errs by 1 point more at 8 images than at 32, by 4 at 4 and by 11 at 2
(Wu and He 2018, figure 1)."""


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
    """A recipe for a number of ranks, and where each of its values came from."""

    recipe: Recipe
    origins: Mapping[Key, Origin]
    world_size: int
    loaded: LoadedRecipe

    @property
    def name(self) -> str:
        """The recipe's name, which names the run's folder."""
        return self.loaded.name

    def origin(self, key: Key) -> Origin:
        """Where a value came from."""
        return self.origins.get(key, DEFAULT)

    def is_set(self, key: Key) -> bool:
        """Whether a recipe file or an override sets the value."""
        return self.origin(key).source in (Source.FILE, Source.PARENT, Source.OVERRIDE)


Computed = tuple[Any, str]
"""A value, and its formula or reason."""


def resolve(
    loaded: LoadedRecipe, world_size: int | None = None, local_world_size: int | None = None
) -> ResolvedRecipe:
    """The recipe for `world_size` ranks (none: as many as its `cluster` section asks for), so many of them on a node.

    Raises RecipeError where the batch cannot be divided among the ranks.
    """
    recipe = loaded.recipe
    values = recipe.model_dump(mode="json")
    origins = dict(loaded.origins)
    ranks, processes = _processes(recipe, world_size, local_world_size)
    situation = _Situation(loaded, ranks, parameter_count(recipe.model.variant, 80))

    def settle(key: Key, compute: Callable[[UnresolvedRecipe, "_Situation"], Computed]) -> None:
        section = values
        for word in key[:-1]:
            section = section[word]
        if section[key[-1]] == "auto":
            current = UnresolvedRecipe.model_validate_json(json.dumps(values))
            section[key[-1]], reason = compute(current, situation)
            origins[key] = Origin(Source.AUTO, reason)

    for key, value, formula in scaled_to_batch(loaded):
        values[key[0]][key[1]] = value
        origins[key] = Origin(Source.AUTO, formula)
    settle(("cluster", "processes_per_node"), lambda *_: processes)
    for key, compute in AUTO_VALUES.items():
        settle(key, compute)
    for name in AUGMENTATION_PRESETS["none"]:
        settle(("data", "augmentation", name), _of_preset(name))
    resolved = Recipe.model_validate_json(json.dumps(values))
    _check_batch(resolved, situation)
    return ResolvedRecipe(resolved, origins, ranks, loaded)


@dataclass(frozen=True, slots=True)
class _Situation:
    loaded: LoadedRecipe
    world_size: int
    parameters: int


def _processes(
    recipe: UnresolvedRecipe, world_size: int | None, local_world_size: int | None
) -> tuple[int, Computed]:
    """World size, and the processes of one node with their reason."""
    nodes, asked = recipe.cluster.nodes, recipe.cluster.processes_per_node
    if world_size is not None and local_world_size is not None:
        return world_size, (local_world_size, "as many as the launcher started on this node")
    if world_size is not None:
        each = max(1, world_size // nodes)
        return world_size, (each, f"world size {world_size} / {nodes} nodes")
    if asked != "auto":
        return nodes * asked, (asked, "")
    gpus = count_gpus()
    reason = f"{gpus} GPUs found" if gpus else f"no GPU found, so {CPU_PROCESSES} on the processor"
    each = gpus or CPU_PROCESSES
    return nodes * each, (each, reason)


def _micro_batch(recipe: UnresolvedRecipe, situation: _Situation) -> Computed:
    world_size, train = situation.world_size, recipe.train
    share, steps = train.global_batch // world_size, train.gradient_accumulation_steps
    _check_divisible(recipe, situation)
    if steps != "auto":
        return max(
            1, share // steps
        ), f"global_batch {train.global_batch} / ({world_size} ranks x {steps} steps)"
    fits = IMAGES_ON_16_GB[recipe.model.variant] * (640 / recipe.model.image_size) ** 2
    fits = max(1, int(fits / (2 if recipe.precision.dtype == "fp32" else 1)))
    largest = max(size for size in range(1, min(share, fits) + 1) if share % size == 0)
    return largest, (
        f"largest divisor of {train.global_batch} / {world_size} ranks = {share} up to {fits}, "
        f"what 16 GB hold of yolov5{recipe.model.variant} at {recipe.model.image_size} pixels"
    )


def _accumulation(recipe: UnresolvedRecipe, situation: _Situation) -> Computed:
    train, world_size = recipe.train, situation.world_size
    assert train.micro_batch != "auto"
    steps = max(1, train.global_batch // (train.micro_batch * world_size))
    return (
        steps,
        f"global_batch {train.global_batch} / (micro_batch {train.micro_batch} x {world_size} ranks)",
    )


def _warmup_bias_lr(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    if recipe.optimizer.type == "SGD":
        return 0.1, "the public YOLOv5's value for SGD"
    return (
        0.0,
        f"{recipe.optimizer.type}'s steps do not shrink with the gradient: 0.1 would throw the biases off",
    )


def takes_steps_alone(recipe: UnresolvedRecipe) -> bool:
    """Whether ranks take some steps without hearing of each other."""
    return recipe.communication.sync_every > 1 or recipe.optimizer.type == "ZeroOneAdam"


def _sync_batchnorm(recipe: UnresolvedRecipe, situation: _Situation) -> Computed:
    images = recipe.train.micro_batch
    assert images != "auto"
    if images >= FEW_IMAGES:
        return False, f"{images} images a rank at once are enough, from {FEW_IMAGES} on"
    if situation.world_size == 1:
        return False, "there is one rank"
    if recipe.cluster.backend == "gloo":
        return False, "torch's SyncBatchNorm has no form for processors"
    if takes_steps_alone(recipe):
        return False, "ranks take steps alone"
    return True, f"{images} images a rank at once are few, below {FEW_IMAGES}"


def _batchnorm_momentum(recipe: UnresolvedRecipe, situation: _Situation) -> Computed:
    train, base = recipe.train, situation.loaded.recipe.train.base_batch
    assert train.gradient_accumulation_steps != "auto"
    if base is None or base == train.global_batch:
        return BATCHNORM_MOMENTUM, "the public YOLOv5's"
    # Of all ranks in one update; evaluation takes their mean.
    images = train.global_batch // train.gradient_accumulation_steps
    momentum = 1 - (1 - BATCHNORM_MOMENTUM) ** (images / base)
    return min(momentum, math.nextafter(1.0, 0.0)), (
        f"1 - {1 - BATCHNORM_MOMENTUM:g} ^ ({images} images at once / base_batch {base})"
    )


def _overlap_comm(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    if recipe.zero.stage == 0:
        return False, "stage 0 exchanges gradients after backward, in one piece"
    return True, "gradients of one bucket travel while the next is computed"


def _bucket_of(situation: _Situation, buckets: int) -> int:
    """Elements of a bucket so that the network fills at least so many of them."""
    return min(math.ceil(situation.parameters / buckets), DDP_BUCKET_ELEMENTS)


def _reduce_bucket_size(recipe: UnresolvedRecipe, situation: _Situation) -> Computed:
    elements = _bucket_of(situation, FLUSHES)
    even = elements + elements % 2
    return even, (
        f"min({situation.parameters:,} parameters / {FLUSHES} flushes, 25 MiB in fp32), even; "
        f"DeepSpeed's 5e8 is {5e8 / situation.parameters:,.0f} times the network and never flushes early"
    )


def _persistence_threshold(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    return (
        10_000,
        "BatchNorm, biases and the smallest convolutions: under 5% of the network, most of its tensors",
    )


def _prefetch_bucket_size(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    return recipe.zero.reduce_bucket_size, "zero.reduce_bucket_size"


def _data_type(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    if recipe.zero.stage == 0:
        return (
            "fp32",
            "stage 0 sends gradients as they are kept, in fp32; bf16 would halve the bytes",
        )
    return (
        recipe.precision.dtype,
        "from stage 1 on DeepSpeed sends what precision.dtype computes in",
    )


def _bucket_size(recipe: UnresolvedRecipe, situation: _Situation) -> Computed:
    return _bucket_of(situation, OVERLAPPED_BUCKETS), (
        f"min({situation.parameters:,} parameters / {OVERLAPPED_BUCKETS} buckets, 25 MiB in fp32): the last one is sent "
        "when backward ends, and nothing hides it"
    )


def _val_images(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    return recipe.data.images, "data.images"


def _upload_weights(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    mode = recipe.tracking.wandb.mode
    return mode == "offline", f"mode is {mode}"


def _backend(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    gpus = count_gpus()
    return ("nccl", f"{gpus} GPUs found") if gpus else ("gloo", "no GPU found")


def _threads(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    cores, processes = count_cores(), recipe.cluster.processes_per_node
    assert processes != "auto"
    return max(1, cores // processes), f"{cores} cores / {processes} processes"


def _workers(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    threads = recipe.cluster.threads_per_process
    assert threads != "auto"
    if recipe.cluster.backend == "nccl":
        return min(MOST_WORKERS, threads), f"{threads} cores a rank, up to {MOST_WORKERS}"
    if threads == 1:
        return 0, "a rank has one core, and a second process would only share it"
    return 1, f"{threads} cores a rank compute, and hardly wait for one process beside them"


def _dtype(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
    return "fp32", "until the ranks start: they measure whether bf16 is faster"


AUTO_VALUES: Mapping[Key, Callable[[UnresolvedRecipe, _Situation], Computed]] = {
    ("precision", "dtype"): _dtype,
    ("train", "micro_batch"): _micro_batch,
    ("train", "gradient_accumulation_steps"): _accumulation,
    ("train", "warmup_bias_lr"): _warmup_bias_lr,
    ("model", "batchnorm_momentum"): _batchnorm_momentum,
    ("zero", "overlap_comm"): _overlap_comm,
    ("zero", "reduce_bucket_size"): _reduce_bucket_size,
    ("zero", "stage3_param_persistence_threshold"): _persistence_threshold,
    ("zero", "stage3_prefetch_bucket_size"): _prefetch_bucket_size,
    ("communication", "data_type"): _data_type,
    ("communication", "bucket_size"): _bucket_size,
    ("data", "val_images"): _val_images,
    ("tracking", "wandb", "upload_weights"): _upload_weights,
    ("cluster", "backend"): _backend,
    ("model", "sync_batchnorm"): _sync_batchnorm,
    ("cluster", "threads_per_process"): _threads,
    ("data", "workers"): _workers,
}
"""In the order in which they build on each other; `model.anchors` waits for the data and is settled by training."""


def _of_preset(name: str) -> Callable[[UnresolvedRecipe, _Situation], Computed]:
    def compute(recipe: UnresolvedRecipe, _: _Situation) -> Computed:
        preset = recipe.data.augmentation.preset
        return AUGMENTATION_PRESETS[preset][name], f"preset {preset}"

    return compute


def _check_divisible(recipe: UnresolvedRecipe, situation: _Situation) -> None:
    batch, ranks = recipe.train.global_batch, situation.world_size
    if batch % ranks:
        below, above = batch // ranks * ranks, batch // ranks * ranks + ranks
        choice = f"{below} or {above}" if below else f"{above}"
        raise RecipeError(
            f"{situation.loaded.place(('train', 'global_batch'))}: train.global_batch: {batch} images do not "
            f"divide among {ranks} ranks; expected a multiple of {ranks}, such as {choice}"
        )


def _check_batch(recipe: Recipe, situation: _Situation) -> None:
    _check_divisible(recipe, situation)
    train, ranks = recipe.train, situation.world_size
    product = train.micro_batch * train.gradient_accumulation_steps * ranks
    if product != train.global_batch:
        raise RecipeError(
            f"{situation.loaded.place(('train', 'micro_batch'))}: train.global_batch: {train.global_batch} is not "
            f"micro_batch {train.micro_batch} x gradient_accumulation_steps {train.gradient_accumulation_steps} x "
            f"{ranks} ranks = {product}; leave one of the two at auto, or set global_batch to {product}"
        )
