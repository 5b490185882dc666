"""Rules for the network, cluster, ZeRO, precision, training and data sections of a recipe.

An error stops the run before it is launched. A warning names a setting that costs speed or has no effect. The facts
behind the rules were observed with DeepSpeed 0.19.8.
"""

from collections.abc import Iterator

from yolo.architecture import parameter_count, strides
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.communication import oversized_bucket
from yolo.recipe.rules.engine import Finding, error, rule, warning, without_effect
from yolo.recipe.schema.optimizer import ONE_BIT


@rule
def image_size_is_a_multiple_of_the_largest_stride(resolved: ResolvedRecipe) -> Iterator[Finding]:
    model = resolved.recipe.model
    largest = strides(model.variant)[-1]
    if model.image_size % largest:
        below = model.image_size // largest * largest
        near = " or ".join(str(size) for size in (below, below + largest) if size)
        text = f"{model.image_size} is no multiple of {largest}, the largest stride of yolov5{model.variant}; set it to {near}"
        yield error(text, key="model.image_size")


@rule
def every_level_has_anchors(resolved: ResolvedRecipe) -> Iterator[Finding]:
    model = resolved.recipe.model
    levels = len(strides(model.variant))
    if not isinstance(model.anchors, str) and len(model.anchors) != levels:
        yield error(
            f"found anchors for {len(model.anchors)} levels, but yolov5{model.variant} has {levels}; list three [width, "
            "height] per level, or set auto",
            key="model.anchors",
        )


@rule
def a_hostfile_needs_several_nodes(resolved: ResolvedRecipe) -> Iterator[Finding]:
    cluster = resolved.recipe.cluster
    if cluster.nodes == 1 and cluster.hostfile is not None:
        yield from without_effect(resolved, "cluster.nodes is 1", "cluster.hostfile")


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


@rule
def sync_batchnorm_needs_gpus(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.model.sync_batchnorm and recipe.cluster.backend == "gloo":
        yield error(
            "torch's SyncBatchNorm does not run on CPUs, and cluster.backend is gloo; set it to false (statistics are "
            "averaged over the ranks before each evaluation and checkpoint in any case)",
            key="model.sync_batchnorm",
        )


@rule
def the_launcher_forwards_no_api_key(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.cluster.nodes > 1 and recipe.tracking.wandb.mode == "online":
        yield warning(
            "the deepspeed launcher passes WANDB_API_KEY to no other machine; run `wandb login` on the first host of the "
            "hostfile, or add a line WANDB_API_KEY=... to a file .deepspeed_env here that only you can read",
            key="tracking.wandb.mode",
        )


@rule
def sync_batchnorm_needs_several_ranks(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.model.sync_batchnorm and resolved.world_size == 1:
        yield warning("has no effect: there is one rank", key="model.sync_batchnorm")


@rule
def an_automatic_strategy_needs_a_profile(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.strategy == "auto" and recipe.cluster.profile is None:
        yield error(
            "auto chooses from the speed of the cluster's network and accelerators, and cluster.profile is not set; set it "
            "to a name such as 4x8xa100-100gbe, or to the file that `python -m yolo calibrate` writes",
            key="strategy",
        )


@rule
def stage_0_has_no_buckets(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage == 0:
        why = "at zero.stage 0 all gradients are reduced after backward; communication.reducer overlapped has buckets"
        keys = ("zero.overlap_comm", "zero.reduce_bucket_size", "zero.contiguous_gradients")
        further = ("zero.use_multi_rank_bucket_allreduce", "zero.round_robin_gradients")
        yield from without_effect(resolved, why, *keys, *further)


@rule
def stage_3_has_its_own_reduction(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage == 3:
        keys = ("zero.use_multi_rank_bucket_allreduce", "zero.round_robin_gradients")
        yield from without_effect(resolved, "it applies to stages 1 and 2; zero.stage is 3", *keys)


@rule
def stage_3_keys_need_stage_3(resolved: ResolvedRecipe) -> Iterator[Finding]:
    stage = resolved.recipe.zero.stage
    if stage < 3:
        keys = ("zero.stage3_param_persistence_threshold", "zero.stage3_prefetch_bucket_size")
        yield from without_effect(resolved, f"zero.stage is {stage}", *keys)


@rule
def a_bucket_must_fill_to_overlap(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    bucket = recipe.zero.reduce_bucket_size
    if recipe.zero.stage in (1, 2) and recipe.zero.overlap_comm is True:
        yield from oversized_bucket(resolved, bucket, "zero.reduce_bucket_size")


@rule
def stages_2_and_3_reduce_every_micro_batch(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    steps = recipe.train.gradient_accumulation_steps
    if recipe.zero.stage >= 2 and steps > 1:
        text = f"each of the {steps} accumulation steps reduces gradients: {steps} times the bytes of stages 0 and 1"
        yield warning(text, key="zero.stage")


@rule
def stage_3_gathers_parameters(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.zero.stage == 3:
        millions = parameter_count(recipe.model.variant, 80) / 1e6
        yield warning(
            "stage 3 gathers the parameters in every micro step, the small ones tensor by tensor, to save memory; "
            f"{millions:.1f} million parameters take little memory beside a detector's activations; stage 0 or 1 is faster",
            key="zero.stage",
        )


@rule
def offloading_needs_a_stage(resolved: ResolvedRecipe) -> Iterator[Finding]:
    zero = resolved.recipe.zero
    if zero.offload_optimizer != "none" and zero.stage == 0:
        text = "stage 0 offloads nothing; set zero.stage to 1 or more"
        yield error(text, key="zero.offload_optimizer")


@rule
def offloading_is_fast_with_adamw_only(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.zero.offload_optimizer != "none" and recipe.optimizer.type == "SGD":
        text = "DeepSpeed has a fast CPU step for AdamW only; SGD takes torch's own there"
        yield warning(text, key="zero.offload_optimizer")


@rule
def autocast_sets_the_data_type_under_zero(resolved: ResolvedRecipe) -> Iterator[Finding]:
    dtype = resolved.recipe.precision.dtype
    differs = resolved.recipe.communication.data_type != dtype
    if resolved.recipe.zero.stage > 0 and dtype != "fp32" and differs:
        why = f"from stage 1 on DeepSpeed sends gradients in precision.dtype ({dtype})"
        yield from without_effect(resolved, why, "communication.data_type")


@rule
def one_rank_sends_nothing(resolved: ResolvedRecipe) -> Iterator[Finding]:
    data_type = resolved.recipe.communication.data_type
    if resolved.world_size == 1 and resolved.is_set(("communication", "data_type")):
        text = (
            f"saves nothing: there is one rank, and its gradients are rounded to {data_type} anyway"
        )
        yield warning(text, key="communication.data_type")


@rule
def fp16_gradients_overflow(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.zero.stage == 0 and recipe.communication.data_type == "fp16":
        text = "gradients above 65504 become infinite, and the step is skipped; bf16 has fp32's range at the same bytes"
        yield warning(text, key="communication.data_type")


@rule
def nesterov_needs_momentum(resolved: ResolvedRecipe) -> Iterator[Finding]:
    optimizer = resolved.recipe.optimizer
    if optimizer.type == "SGD" and optimizer.nesterov and optimizer.momentum == 0:
        text = "optimizer.nesterov needs a momentum above 0; set optimizer.nesterov to false"
        yield error(text, key="optimizer.momentum")


@rule
def unclipped_gradients_are_not_checked(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    is_checked = recipe.zero.stage > 0 or recipe.precision.dtype == "fp16"
    is_checked |= recipe.optimizer.type in ONE_BIT
    if recipe.train.gradient_clipping == 0 and not is_checked:
        yield warning(
            "0 computes no norm, so at stage 0 a non-finite gradient ruins the weights unnoticed; 1000 clips as little, and "
            "such a step is skipped",
            key="train.gradient_clipping",
        )


@rule
def warm_up_settings_need_warm_up(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.train.warmup_epochs == 0:
        keys = ("train.warmup_min_steps", "train.warmup_momentum", "train.warmup_bias_lr")
        yield from without_effect(resolved, "train.warmup_epochs is 0", *keys)


@rule
def adam_has_no_momentum_to_warm_up(resolved: ResolvedRecipe) -> Iterator[Finding]:
    kind = resolved.recipe.optimizer.type
    if kind != "SGD":
        yield from without_effect(resolved, f"{kind} has no momentum", "train.warmup_momentum")


@rule
def warm_up_must_end(resolved: ResolvedRecipe) -> Iterator[Finding]:
    train = resolved.recipe.train
    if resolved.is_set(("train", "warmup_epochs")) and train.warmup_epochs > train.epochs / 2:
        text = f"{train.warmup_epochs:g} of {train.epochs} epochs is more than half of the run; warm-up is cut there"
        yield warning(text, key="train.warmup_epochs")


@rule
def ema_settings_need_ema(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if not resolved.recipe.train.ema:
        keys = ("train.ema_decay", "train.ema_ramp_steps", "train.ema_steps_per_step")
        yield from without_effect(resolved, "train.ema is false", *keys)


@rule
def mosaic_must_have_epochs_left(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.data.augmentation.mosaic_off_epochs >= recipe.train.epochs:
        why = "mosaic_off_epochs covers the full run"
        yield from without_effect(resolved, why, "data.augmentation.mosaic")


@rule
def mixup_blends_mosaics(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.data.augmentation.mosaic == 0:
        why = "data.augmentation.mosaic is 0"
        yield from without_effect(resolved, why, "data.augmentation.mixup")


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


@rule
def only_coco_has_image_folders(resolved: ResolvedRecipe) -> Iterator[Finding]:
    reasons = {"yolo": "data.yaml says where the images are", "shards": "shards hold the images"}
    if why := reasons.get(resolved.recipe.data.format):
        yield from without_effect(resolved, why, "data.images", "data.val_images")


@rule
def only_shards_have_a_shuffle_buffer(resolved: ResolvedRecipe) -> Iterator[Finding]:
    kind = resolved.recipe.data.format
    if kind != "shards":
        why = f"images of data.format {kind} are drawn from the full data set"
        yield from without_effect(resolved, why, "data.shuffle_buffer")


@rule
def disabled_wandb_writes_nothing(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.tracking.wandb.mode == "disabled":
        words = ("project", "entity", "tags", "upload_weights")
        keys = (f"tracking.wandb.{word}" for word in words)
        yield from without_effect(resolved, "tracking.wandb.mode is disabled", *keys)
