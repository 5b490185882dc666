"""Compute the `auto` values of a recipe for a number of ranks, each with its formula and reason."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from yolo.architecture import BATCHNORM_MOMENTUM, parameter_count
from yolo.errors import RecipeError
from yolo.recipe.load.merge import DEFAULT, LoadedRecipe, Origin, Source
from yolo.recipe.resolve.batch_scaling import least_warmup_steps, scaled_to_batch
from yolo.recipe.resolve.hardware import count_cores
from yolo.recipe.resolve.machines import Computed, machines_of
from yolo.recipe.schema.data import AUGMENTATION_PRESETS
from yolo.recipe.schema.fields import Key
from yolo.recipe.schema.recipe import Recipe, UnresolvedRecipe

# The public YOLOv5's batch on one V100 of 16 GB at 640 pixels in fp16 (its README); fp32 fits half of it. Those of the
# P6 family are not published: as many as fill the same memory, by the planner's snapshot of both families.
IMAGES_ON_16_GB = {
    **{"n": 128, "s": 64, "m": 40, "l": 24, "x": 16},
    **{"n6": 128, "s6": 63, "m6": 39, "l6": 22, "x6": 14},
}
DDP_BUCKET_ELEMENTS = 25 * 2**20 // 4
"""torch DDP's 25 MiB bucket, in fp32 elements: larger ones delay the first exchange and gain nothing."""
FLUSHES = 4
"""Exchanges during one backward pass that a bucket should allow: with one there is no overlap."""
OVERLAPPED_BUCKETS = 8
"""Buckets of the overlapped reducer: more add latency, fewer leave more to send when backward ends."""
LONG_ROUND = 100
"""Local steps from which `auto` takes DiLoCo's outer step, tuned for 500 (Douillard et al. 2023). At 8 its momentum adds up
the movement of about 7 rounds in each, and the demo's AP falls from 0.665 to 0.349 (docs/results.md). Not measured between
32 and 500: the bound is a guess."""
BATCHNORM_IMAGES = 512
"""Fewer are too rough: with 160 the demo's AP moves by up to 0.014, with 480 by 0.001 (docs/results.md)."""
MOST_WORKERS = 8
"""Loading processes per rank: the public YOLOv5's."""
FEW_IMAGES = 8
"""With fewer, BatchNorm's statistics are rough: ResNet-50 errs by 1 point more at 8 images than at 32, by 4 at 4 and by 11
at 2 (Wu and He 2018, figure 1)."""


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


@dataclass(frozen=True, slots=True)
class _Context:
    loaded: LoadedRecipe
    world_size: int
    columns: int
    parameters: int

    @property
    def data_ranks(self) -> int:
        """Shares of each batch."""
        return self.world_size // self.columns

    def bucket_elements(self, buckets: int) -> int:
        """Elements per bucket, so that the network fills at least this many."""
        return min(math.ceil(self.parameters / buckets), DDP_BUCKET_ELEMENTS)


_Compute = Callable[[UnresolvedRecipe, _Context], Computed]
"""Computes one value; the recipe has the values that come before it in `AUTO_VALUES`."""


def resolve(
    loaded: LoadedRecipe, world_size: int | None = None, local_world_size: int | None = None
) -> ResolvedRecipe:
    """Resolve a recipe for `world_size` ranks, `local_world_size` per node (None: as its `cluster` section says).

    Raises RecipeError if the batch cannot be divided among the ranks, or the hostfile contradicts the recipe.
    """
    values = loaded.recipe.model_dump(mode="json")
    origins = dict(loaded.origins)
    machines = machines_of(loaded, world_size, local_world_size)
    ranks = machines.world_size
    columns = loaded.recipe.sharding.columns
    context = _Context(loaded, ranks, columns, parameter_count(loaded.recipe.model.variant, 80))
    _check_mesh(loaded, ranks)
    for key, value, formula in scaled_to_batch(loaded):
        values[key[0]][key[1]] = value
        origins[key] = Origin(Source.AUTO, formula)
    _check_divisible(loaded, context.data_ranks)
    computations: dict[Key, _Compute] = {
        ("cluster", "nodes"): lambda *_: machines.nodes,
        ("cluster", "processes_per_node"): lambda *_: machines.processes,
        ("cluster", "accelerator"): lambda *_: machines.accelerator,
        **AUTO_VALUES,
    }
    for key, compute in computations.items():
        section = values
        for word in key[:-1]:
            section = section[word]
        if section[key[-1]] == "auto":
            current = UnresolvedRecipe.model_validate_json(json.dumps(values))
            section[key[-1]], reason = compute(current, context)
            origins[key] = Origin(Source.AUTO, reason)
    resolved = ResolvedRecipe(
        Recipe.model_validate_json(json.dumps(values)), origins, ranks, loaded
    )
    _check_product(resolved)
    return resolved


def _micro_batch(recipe: UnresolvedRecipe, context: _Context) -> Computed:
    ranks, batch, variant = context.data_ranks, recipe.train.global_batch, recipe.model.variant
    share, steps = batch // ranks, recipe.train.gradient_accumulation_steps
    if steps != "auto":
        return max(1, share // steps), f"global_batch {batch} / ({ranks} ranks x {steps} steps)"
    fits = IMAGES_ON_16_GB[variant] * (640 / recipe.model.image_size) ** 2 * context.columns
    fits = max(1, int(fits / (2 if recipe.precision.dtype == "fp32" else 1)))
    largest = max(size for size in range(1, min(share, fits) + 1) if share % size == 0)
    return largest, (
        f"largest divisor of {batch} / {ranks} ranks = {share} up to {fits}, "
        f"what 16 GB hold of yolov5{variant} at {recipe.model.image_size} pixels"
    )


def _accumulation(recipe: UnresolvedRecipe, context: _Context) -> Computed:
    batch, images, ranks = recipe.train.global_batch, recipe.train.micro_batch, context.data_ranks
    assert images != "auto"
    steps = max(1, batch // (images * ranks))
    return steps, f"global_batch {batch} / (micro_batch {images} x {ranks} ranks)"


def _warmup_bias_lr(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    kind = recipe.optimizer.type
    if kind == "SGD":
        return 0.1, "the public YOLOv5's value for SGD"
    return 0.0, f"{kind}'s steps do not shrink with the gradient: 0.1 would throw the biases off"


def takes_local_steps(recipe: UnresolvedRecipe) -> bool:
    """Whether ranks take some steps without synchronising."""
    return recipe.communication.sync_every > 1 or recipe.optimizer.type == "ZeroOneAdam"


def ranks_per_node(recipe: UnresolvedRecipe, world_size: int) -> int:
    """How many ranks share a node; `cluster.processes_per_node` is resolved."""
    processes = recipe.cluster.processes_per_node
    assert processes != "auto"
    return min(processes, world_size)


def _sync_batchnorm(recipe: UnresolvedRecipe, context: _Context) -> Computed:
    images = recipe.train.micro_batch
    assert images != "auto"
    if images >= FEW_IMAGES:
        return False, f"{images} images per rank at once are enough, from {FEW_IMAGES} on"
    ranks = ranks_per_node(recipe, context.world_size)
    if ranks == 1:
        return False, "there is one rank per node, and only those of a node could share statistics"
    if ranks <= context.columns:
        return False, "the ranks of a node hold one image, whose statistics they share in any case"
    backend, is_cpu = recipe.cluster.backend, recipe.cluster.accelerator == "cpu"
    if backend == "gloo" or (is_cpu and backend in ("mpi", "ucc")):
        return False, "an exchange per layer costs CPU ranks more than rough statistics do"
    if takes_local_steps(recipe):
        return False, "ranks take local steps"
    return True, (
        f"{images} images per rank at once are few, below {FEW_IMAGES}; the ranks of a node share statistics"
    )


def _batchnorm_momentum(recipe: UnresolvedRecipe, context: _Context) -> Computed:
    train, base = recipe.train, context.loaded.recipe.train.base_batch
    assert train.gradient_accumulation_steps != "auto"
    if base is None or base == train.global_batch:
        return BATCHNORM_MOMENTUM, "the public YOLOv5's"
    # The images of all ranks in one update of the statistics; evaluation uses the mean over the ranks.
    images = train.global_batch // train.gradient_accumulation_steps
    momentum = 1 - (1 - BATCHNORM_MOMENTUM) ** (images / base)
    return min(momentum, math.nextafter(1.0, 0.0)), (
        f"1 - {1 - BATCHNORM_MOMENTUM:g} ^ ({images} images at once / base_batch {base})"
    )


def _overlap_comm(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    if recipe.zero.stage == 0:
        return False, "stage 0 exchanges gradients after backward, in one piece"
    return True, "gradients of one bucket are sent while the next is computed"


def _reduce_bucket_size(_: UnresolvedRecipe, context: _Context) -> Computed:
    elements = context.bucket_elements(FLUSHES)
    return elements + elements % 2, (
        f"min({context.parameters:,} parameters / {FLUSHES} flushes, 25 MiB in fp32), even; "
        f"DeepSpeed's 5e8 is {5e8 / context.parameters:,.0f} times the network and never flushes early"
    )


def _data_type(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    if recipe.zero.stage == 0:
        return "fp32", "stage 0 sends gradients as they are stored, in fp32; bf16 halves the bytes"
    return recipe.precision.dtype, "from stage 1 on DeepSpeed sends gradients in precision.dtype"


def _bucket_size(_: UnresolvedRecipe, context: _Context) -> Computed:
    return context.bucket_elements(OVERLAPPED_BUCKETS), (
        f"min({context.parameters:,} parameters / {OVERLAPPED_BUCKETS} buckets, 25 MiB in fp32): the last one is sent "
        "when backward ends, and nothing hides it"
    )


def _outer_value(
    averaging: float, diloco: float, recipe: UnresolvedRecipe, _: _Context
) -> Computed:
    every = recipe.communication.sync_every
    if every < LONG_ROUND:
        return averaging, f"{every} local steps: weights are averaged, outer momentum overshoots"
    return diloco, f"{every} local steps: DiLoCo's value, tuned for 500"


def _batchnorm_images(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    if recipe.model.sync_batchnorm:
        return 0, "the statistics of several ranks are of more images than a rank's batches hold"
    if recipe.train.ema or takes_local_steps(recipe):
        return BATCHNORM_IMAGES, "the evaluated weights are an average, and no step had them"
    return 0, "the evaluated weights are those of the last step"


def _upload_weights(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    mode = recipe.tracking.wandb.mode
    return mode == "offline", f"mode is {mode}"


def _backend(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    accelerator = recipe.cluster.accelerator
    return "nccl" if accelerator == "cuda" else "gloo", f"cluster.accelerator {accelerator}"


def _threads(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    cores, processes = count_cores(), recipe.cluster.processes_per_node
    assert processes != "auto"
    whose = "" if recipe.cluster.hostfile is None else "; each host counts its own"
    return max(1, cores // processes), f"{cores} cores / {processes} processes{whose}"


def _workers(recipe: UnresolvedRecipe, _: _Context) -> Computed:
    threads = recipe.cluster.threads_per_process
    assert threads != "auto"
    if recipe.cluster.accelerator == "cuda":
        return min(MOST_WORKERS, threads), f"{threads} cores per rank, up to {MOST_WORKERS}"
    if threads == 1:
        return 0, "a rank has one core, and a second process would only share it"
    return 1, f"{threads} cores per rank compute, and hardly wait for one process beside them"


def _augmentation(name: str, recipe: UnresolvedRecipe, _: _Context) -> Computed:
    preset = recipe.data.augmentation.preset
    return AUGMENTATION_PRESETS[preset][name], f"preset {preset}"


AUTO_VALUES: Mapping[Key, _Compute] = {
    ("sharding", "data"): lambda _, context: (
        context.data_ranks,
        f"{context.world_size} ranks / {context.columns} columns",
    ),
    ("precision", "dtype"): lambda *_: (
        "fp32",
        "until the ranks start: bf16 if their hardware has it and does not clearly lose",
    ),
    ("train", "micro_batch"): _micro_batch,
    ("train", "gradient_accumulation_steps"): _accumulation,
    ("train", "warmup_min_steps"): lambda _, context: least_warmup_steps(context.loaded),
    ("train", "warmup_bias_lr"): _warmup_bias_lr,
    ("model", "batchnorm_momentum"): _batchnorm_momentum,
    ("zero", "overlap_comm"): _overlap_comm,
    ("zero", "reduce_bucket_size"): _reduce_bucket_size,
    ("zero", "stage3_param_persistence_threshold"): lambda *_: (
        10_000,
        "BatchNorm, biases and the smallest convolutions: under 5% of the network, most of its tensors",
    ),
    ("zero", "stage3_prefetch_bucket_size"): lambda recipe, _: (
        recipe.zero.reduce_bucket_size,
        "zero.reduce_bucket_size",
    ),
    ("communication", "data_type"): _data_type,
    ("communication", "bucket_size"): _bucket_size,
    ("communication", "outer_lr"): partial(_outer_value, 1.0, 0.7),
    ("communication", "outer_momentum"): partial(_outer_value, 0.0, 0.9),
    ("data", "val_images"): lambda recipe, _: (recipe.data.images, "data.images"),
    ("tracking", "wandb", "upload_weights"): _upload_weights,
    ("cluster", "backend"): _backend,
    ("model", "sync_batchnorm"): _sync_batchnorm,
    ("evaluation", "batchnorm_images"): _batchnorm_images,
    ("cluster", "threads_per_process"): _threads,
    ("data", "workers"): _workers,
    **{
        ("data", "augmentation", name): partial(_augmentation, name)
        for name in AUGMENTATION_PRESETS["none"]
    },
}
"""In the order in which they depend on each other. `model.anchors` depends on the data and is computed by training."""


def _check_mesh(loaded: LoadedRecipe, ranks: int) -> None:
    sharding = loaded.recipe.sharding
    if ranks % sharding.columns:
        raise RecipeError(
            f"{loaded.place(('sharding', 'columns'))}: sharding.columns: {ranks} ranks do not divide among images of "
            f"{sharding.columns} columns; expected a multiple of {sharding.columns} ranks, such as {sharding.columns}"
        )
    if sharding.data not in ("auto", ranks // sharding.columns):
        raise RecipeError(
            f"{loaded.place(('sharding', 'data'))}: sharding.data: {sharding.data} x sharding.columns {sharding.columns} is not "
            f"{ranks} ranks; set it to {ranks // sharding.columns} or auto, or change cluster.processes_per_node"
        )


def _check_divisible(loaded: LoadedRecipe, ranks: int) -> None:
    batch = loaded.recipe.train.global_batch
    if batch % ranks:
        below, above = batch // ranks * ranks, batch // ranks * ranks + ranks
        choice = f"{below} or {above}" if below else f"{above}"
        raise RecipeError(
            f"{loaded.place(('train', 'global_batch'))}: train.global_batch: {batch} images do not divide among {ranks} "
            f"ranks; expected a multiple of {ranks}, such as {choice}"
        )


def _check_product(resolved: ResolvedRecipe) -> None:
    train, ranks = resolved.recipe.train, resolved.recipe.sharding.data
    product = train.micro_batch * train.gradient_accumulation_steps * ranks
    if product != train.global_batch:
        raise RecipeError(
            f"{resolved.loaded.place(('train', 'micro_batch'))}: train.global_batch: {train.global_batch} is not "
            f"micro_batch {train.micro_batch} x gradient_accumulation_steps {train.gradient_accumulation_steps} x "
            f"{ranks} ranks = {product}; leave one of the two at auto, or set global_batch to {product}"
        )
