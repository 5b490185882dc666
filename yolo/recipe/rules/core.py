"""Rules for the network, cluster, ZeRO, precision, training and data sections of a recipe.

An error stops the run before it is launched. A warning names a setting that costs speed or has no effect. The facts
behind the rules were observed with DeepSpeed 0.19.8.
"""

from collections.abc import Iterator

from yolo.architecture import parameter_count, strides
from yolo.recipe.resolve.resolve import ResolvedRecipe, ranks_per_node
from yolo.recipe.rules.communication import oversized_bucket
from yolo.recipe.rules.engine import Finding, error, no_effect, on, rule, warning, without_effect
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.recipe.schema.recipe import Recipe

STAGES_1_AND_2 = ("zero.use_multi_rank_bucket_allreduce", "zero.round_robin_gradients")


@on(error, "model.image_size")
def image_size_is_a_multiple_of_the_largest_stride(recipe: Recipe) -> Iterator[str]:
    size, variant = recipe.model.image_size, recipe.model.variant
    largest = strides(variant)[-1]
    if size % largest:
        below = size // largest * largest
        near = " or ".join(str(size) for size in (below, below + largest) if size)
        yield f"{size} is no multiple of {largest}, the largest stride of yolov5{variant}; set it to {near}"


@on(error, "model.anchors")
def every_level_has_anchors(recipe: Recipe) -> Iterator[str]:
    anchors, variant = recipe.model.anchors, recipe.model.variant
    levels = len(strides(variant))
    if not isinstance(anchors, str) and len(anchors) != levels:
        yield (
            f"found anchors for {len(anchors)} levels, but yolov5{variant} has {levels}; list three [width, "
            "height] per level, or set auto"
        )


@rule
def only_several_nodes_can_become_fewer(resolved: ResolvedRecipe) -> Iterator[Finding]:
    cluster = resolved.recipe.cluster
    if cluster.least_nodes == "auto":
        return
    if cluster.least_nodes > cluster.nodes:
        text = f"{cluster.least_nodes} is more than cluster.nodes {cluster.nodes}; expected as many or fewer"
        yield error(text, key="cluster.least_nodes")
    elif cluster.nodes == 1 or cluster.restarts == 0:
        why = "cluster.nodes is 1" if cluster.nodes == 1 else "cluster.restarts is 0"
        yield from without_effect(resolved, why, "cluster.least_nodes")


@on(error, "cluster.launcher")
def mpi_is_started_by_mpi(recipe: Recipe) -> Iterator[str]:
    if recipe.cluster.backend == "mpi" and recipe.cluster.launcher == "pdsh":
        yield "cluster.backend mpi needs ranks that mpiexec or srun starts; set it to openmpi, mpich or slurm, or to auto"


@on(warning, "tracking.wandb.mode")
def the_launcher_forwards_no_api_key(recipe: Recipe) -> Iterator[str]:
    is_elsewhere = recipe.cluster.nodes > 1 or recipe.cluster.hostfile is not None
    if is_elsewhere and recipe.tracking.wandb.mode == "online":
        yield (
            "the deepspeed launcher passes WANDB_API_KEY to no other machine; run `wandb login` on the first host of the "
            "hostfile, or add a line WANDB_API_KEY=... to a file .deepspeed_env here that only you can read"
        )


@rule
def sync_batchnorm_needs_several_ranks_per_node(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    ranks, columns = ranks_per_node(recipe, resolved.world_size), recipe.sharding.columns
    if recipe.model.sync_batchnorm and ranks <= columns:
        why = "only the ranks of a node share statistics, and there is one rank per node"
        if columns > 1:
            why = "the ranks of a node hold one image, whose statistics they share in any case"
        yield no_effect(why, key="model.sync_batchnorm")


@on(error, "strategy")
def an_automatic_strategy_needs_a_profile(recipe: Recipe) -> Iterator[str]:
    if recipe.strategy == "auto" and recipe.cluster.profile is None:
        yield (
            "auto chooses from the speed of the cluster's network and accelerators, and cluster.profile is not set; set it "
            "to a name such as 4x8xa100-100gbe, or to the file that `yolo calibrate` writes"
        )


@on(
    no_effect,
    *("zero.overlap_comm", "zero.reduce_bucket_size", "zero.contiguous_gradients"),
    *STAGES_1_AND_2,
)
def stage_0_has_no_buckets(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage == 0:
        yield "at zero.stage 0 all gradients are reduced after backward; communication.reducer overlapped has buckets"


@on(no_effect, *STAGES_1_AND_2)
def stage_3_has_its_own_reduction(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage == 3:
        yield "it applies to stages 1 and 2; zero.stage is 3"


@on(no_effect, "zero.stage3_param_persistence_threshold", "zero.stage3_prefetch_bucket_size")
def stage_3_keys_need_stage_3(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage < 3:
        yield f"zero.stage is {recipe.zero.stage}"


@on(warning, "zero.reduce_bucket_size")
def a_bucket_must_fill_to_overlap(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage in (1, 2) and recipe.zero.overlap_comm:
        yield from oversized_bucket(recipe, recipe.zero.reduce_bucket_size)


@on(warning, "zero.stage")
def stages_2_and_3_reduce_every_micro_batch(recipe: Recipe) -> Iterator[str]:
    steps = recipe.train.gradient_accumulation_steps
    if recipe.zero.stage >= 2 and steps > 1:
        yield f"each of the {steps} accumulation steps reduces gradients: {steps} times the bytes of stages 0 and 1"


@on(warning, "zero.stage")
def stage_3_gathers_parameters(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage == 3:
        millions = parameter_count(recipe.model.variant, 80) / 1e6
        yield (
            "stage 3 gathers the parameters in every micro step, the small ones tensor by tensor, to save memory; "
            f"{millions:.1f} million parameters take little memory beside a detector's activations; stage 0 or 1 is faster"
        )


@on(error, "zero.offload_optimizer")
def offloading_needs_a_stage(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.offload_optimizer != "none" and recipe.zero.stage == 0:
        yield "stage 0 offloads nothing; set zero.stage to 1 or more"


@on(warning, "zero.offload_optimizer")
def offloading_is_fast_with_adamw_only(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.offload_optimizer != "none" and recipe.optimizer.type == "SGD":
        yield "DeepSpeed has a fast CPU step for AdamW only; SGD takes torch's own there"


@on(no_effect, "communication.data_type")
def autocast_sets_the_data_type_under_zero(recipe: Recipe) -> Iterator[str]:
    dtype = recipe.precision.dtype
    if recipe.zero.stage > 0 and recipe.communication.data_type != dtype != "fp32":
        yield f"from stage 1 on DeepSpeed sends gradients in precision.dtype ({dtype})"


@rule
def one_rank_sends_nothing(resolved: ResolvedRecipe) -> Iterator[Finding]:
    data_type = resolved.recipe.communication.data_type
    if resolved.world_size == 1 and resolved.is_set(("communication", "data_type")):
        text = (
            f"saves nothing: there is one rank, and its gradients are rounded to {data_type} anyway"
        )
        yield warning(text, key="communication.data_type")


@on(warning, "communication.data_type")
def fp16_gradients_overflow(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage == 0 and recipe.communication.data_type == "fp16":
        yield "gradients above 65504 become infinite, and the step is skipped; bf16 has fp32's range at the same bytes"


@on(error, "optimizer.momentum")
def nesterov_needs_momentum(recipe: Recipe) -> Iterator[str]:
    optimizer = recipe.optimizer
    if optimizer.type == "SGD" and optimizer.nesterov and optimizer.momentum == 0:
        yield "optimizer.nesterov needs a momentum above 0; set optimizer.nesterov to false"


@on(warning, "train.gradient_clipping")
def unclipped_gradients_are_not_checked(recipe: Recipe) -> Iterator[str]:
    is_checked = recipe.zero.stage > 0 or recipe.precision.dtype == "fp16"
    is_checked |= recipe.optimizer.type in ONE_BIT
    if recipe.train.gradient_clipping == 0 and not is_checked:
        yield (
            "0 computes no norm, so at stage 0 a non-finite gradient ruins the weights unnoticed; 1000 clips as little, and "
            "such a step is skipped"
        )


@on(no_effect, "train.warmup_min_steps", "train.warmup_momentum", "train.warmup_bias_lr")
def warm_up_settings_need_warm_up(recipe: Recipe) -> Iterator[str]:
    if recipe.train.warmup_epochs == 0:
        yield "train.warmup_epochs is 0"


@on(no_effect, "train.warmup_momentum")
def adam_has_no_momentum_to_warm_up(recipe: Recipe) -> Iterator[str]:
    if recipe.optimizer.type != "SGD":
        yield f"{recipe.optimizer.type} has no momentum"


@rule
def warm_up_must_end(resolved: ResolvedRecipe) -> Iterator[Finding]:
    train = resolved.recipe.train
    if resolved.is_set(("train", "warmup_epochs")) and train.warmup_epochs > train.epochs / 2:
        text = f"{train.warmup_epochs:g} of {train.epochs} epochs is more than half of the run; warm-up is cut there"
        yield warning(text, key="train.warmup_epochs")


@on(no_effect, "train.ema_decay", "train.ema_ramp_steps", "train.ema_steps_per_step")
def ema_settings_need_ema(recipe: Recipe) -> Iterator[str]:
    if not recipe.train.ema:
        yield "train.ema is false"


@on(no_effect, "data.augmentation.mosaic")
def mosaic_must_have_epochs_left(recipe: Recipe) -> Iterator[str]:
    if recipe.data.augmentation.mosaic_off_epochs >= recipe.train.epochs:
        yield "mosaic_off_epochs covers the full run"


@on(no_effect, "data.augmentation.mixup")
def mixup_blends_mosaics(recipe: Recipe) -> Iterator[str]:
    if recipe.data.augmentation.mosaic == 0:
        yield "data.augmentation.mosaic is 0"


@rule
def evaluation_must_come_before_the_end(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    for section in ("evaluation", "checkpoint"):
        every = getattr(recipe, section).every_epochs
        if every > recipe.train.epochs:
            text = (
                f"{every} is more than the run's {recipe.train.epochs} epochs: only after the last"
            )
            yield warning(text, key=f"{section}.every_epochs")


@on(no_effect, "data.images", "data.val_images")
def only_coco_has_image_folders(recipe: Recipe) -> Iterator[str]:
    reasons = {
        "yolo": "data.yaml says where the images are",
        "voc": "a Pascal VOC data set says where its images are",
        "shards": "shards hold the images",
    }
    if why := reasons.get(recipe.data.format):
        yield why


@on(no_effect, "data.shuffle_buffer")
def only_shards_have_a_shuffle_buffer(recipe: Recipe) -> Iterator[str]:
    if recipe.data.format != "shards":
        yield f"images of data.format {recipe.data.format} are drawn from the full data set"


@on(
    no_effect,
    *(f"tracking.wandb.{word}" for word in ("project", "entity", "tags", "upload_weights")),
)
def disabled_wandb_writes_nothing(recipe: Recipe) -> Iterator[str]:
    if recipe.tracking.wandb.mode == "disabled":
        yield "tracking.wandb.mode is disabled"
