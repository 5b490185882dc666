"""What cannot work, and what stands in a recipe without effect: one small function a rule.

A rule looks at a resolved recipe and yields findings; it never changes anything. An error stops the run before it is
launched, a warning names a setting that costs speed or does nothing where it stands. The facts behind them were
observed with DeepSpeed 0.19.8. Rules on keys handed through to DeepSpeed are in passthrough_rules.py.
"""

from collections.abc import Iterator

from yolo.architecture import parameter_count, strides
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.engine import Finding, error, rule, warning, without_effect
from yolo.recipe.schema.optimizer import ONE_BIT

# --- the network ------------------------------------------------------------------------------------------------


@rule
def images_must_fill_the_largest_cells(resolved: ResolvedRecipe) -> Iterator[Finding]:
    model = resolved.recipe.model
    largest = strides(model.variant)[-1]
    if model.image_size % largest:
        below = model.image_size // largest * largest
        near = " or ".join(str(size) for size in (below, below + largest) if size)
        yield error(
            "model.image_size",
            f"{model.image_size} is no multiple of {largest}, the largest stride of yolov5{model.variant}; set it to {near}",
        )


@rule
def anchors_must_be_for_every_level(resolved: ResolvedRecipe) -> Iterator[Finding]:
    model = resolved.recipe.model
    levels = len(strides(model.variant))
    if not isinstance(model.anchors, str) and len(model.anchors) != levels:
        yield error(
            "model.anchors",
            f"they are for {len(model.anchors)} levels, and yolov5{model.variant} has {levels}; list three [width, height] for "
            "each, or set auto",
        )


# --- the cluster ------------------------------------------------------------------------------------------------


@rule
def a_hostfile_wants_several_nodes(resolved: ResolvedRecipe) -> Iterator[Finding]:
    cluster = resolved.recipe.cluster
    if cluster.nodes == 1 and cluster.hostfile is not None:
        yield from without_effect(resolved, ("cluster.hostfile",), "cluster.nodes is 1")


@rule
def only_several_nodes_can_become_fewer(resolved: ResolvedRecipe) -> Iterator[Finding]:
    cluster = resolved.recipe.cluster
    if cluster.least_nodes == "auto":
        return
    if cluster.least_nodes > cluster.nodes:
        yield error(
            "cluster.least_nodes",
            f"{cluster.least_nodes} is more than cluster.nodes {cluster.nodes}; expected as many or fewer",
        )
    elif cluster.nodes == 1 or cluster.restarts == 0:
        why = "cluster.nodes is 1" if cluster.nodes == 1 else "cluster.restarts is 0"
        yield from without_effect(resolved, ("cluster.least_nodes",), why)


@rule
def sync_batchnorm_wants_gpus(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.model.sync_batchnorm and recipe.cluster.backend == "gloo":
        yield error(
            "model.sync_batchnorm",
            "torch's SyncBatchNorm has no form for processors, and cluster.backend is gloo; set it to false "
            "(statistics are averaged over the ranks before each evaluation and checkpoint in any case)",
        )


@rule
def the_launcher_forwards_no_key(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.cluster.nodes > 1 and recipe.tracking.wandb.mode == "online":
        yield warning(
            "tracking.wandb.mode",
            "the deepspeed launcher hands WANDB_API_KEY to no other machine; run `wandb login` on the first one of the "
            "hostfile, or add a line WANDB_API_KEY=... to a file .deepspeed_env here that only you can read",
        )


@rule
def sync_batchnorm_needs_company(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.model.sync_batchnorm and resolved.world_size == 1:
        yield warning("model.sync_batchnorm", "has no effect: there is one rank")


@rule
def an_automatic_strategy_wants_a_profile(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.strategy == "auto" and recipe.cluster.profile is None:
        yield error(
            "strategy",
            "auto chooses by what the cluster's network and accelerators can do, and cluster.profile names none; set it to a "
            "name such as 4x8xa100-100gbe, or to the file that `python -m yolo calibrate` writes",
        )


# --- ZeRO -------------------------------------------------------------------------------------------------------


@rule
def stage_0_has_no_buckets(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage == 0:
        keys = (
            "zero.overlap_comm",
            "zero.reduce_bucket_size",
            "zero.contiguous_gradients",
            "zero.use_multi_rank_bucket_allreduce",
            "zero.round_robin_gradients",
        )
        why = (
            "at zero.stage 0 DeepSpeed exchanges all gradients in one piece after backward; "
            "communication.reducer overlapped does it bucket by bucket"
        )
        yield from without_effect(resolved, keys, why)


@rule
def stage_3_has_its_own_exchange(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage == 3:
        keys = ("zero.use_multi_rank_bucket_allreduce", "zero.round_robin_gradients")
        yield from without_effect(resolved, keys, "it concerns stages 1 and 2, and zero.stage is 3")


@rule
def stage_3_keys_want_stage_3(resolved: ResolvedRecipe) -> Iterator[Finding]:
    stage = resolved.recipe.zero.stage
    if stage < 3:
        keys = ("zero.stage3_param_persistence_threshold", "zero.stage3_prefetch_bucket_size")
        yield from without_effect(resolved, keys, f"zero.stage is {stage}")


@rule
def a_bucket_must_fill_to_overlap(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    parameters = parameter_count(recipe.model.variant, 80)
    bucket = recipe.zero.reduce_bucket_size
    if recipe.zero.stage in (1, 2) and recipe.zero.overlap_comm and bucket > parameters // 2:
        yield warning(
            "zero.reduce_bucket_size",
            f"{bucket:,} elements are more than half of yolov5{recipe.model.variant}'s {parameters:,} "
            "parameters, so one bucket at most fills before backward is over, and overlap_comm hides little; leave it "
            "at auto",
        )


@rule
def stages_2_and_3_exchange_every_micro_batch(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    steps = recipe.train.gradient_accumulation_steps
    if recipe.zero.stage >= 2 and steps > 1:
        yield warning(
            "zero.stage",
            f"at stage {recipe.zero.stage} each of the {steps} accumulation steps exchanges gradients, {steps} times "
            "the bytes of stages 0 and 1",
        )


@rule
def stage_3_gathers_parameters(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.zero.stage == 3:
        millions = parameter_count(recipe.model.variant, 80) / 1e6
        yield warning(
            "zero.stage",
            f"stage 3 gathers the parameters anew in every micro step, tensor by tensor the small ones, to save memory, of which "
            f"{millions:.1f} million parameters take little beside a detector's activations; stage 0 or 1 is faster",
        )


@rule
def offloading_wants_a_stage(resolved: ResolvedRecipe) -> Iterator[Finding]:
    zero = resolved.recipe.zero
    if zero.offload_optimizer != "none" and zero.stage == 0:
        yield error(
            "zero.offload_optimizer", "stage 0 offloads nothing; set zero.stage to 1 or more"
        )


@rule
def offloading_is_made_for_adamw(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.zero.offload_optimizer != "none" and recipe.optimizer.type == "SGD":
        yield warning(
            "zero.offload_optimizer",
            "DeepSpeed's fast step in host memory is AdamW's; SGD takes torch's own there",
        )


# --- precision and what is on the wire --------------------------------------------------------------------------


@rule
def autocast_decides_the_wire_under_zero(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    differs = recipe.communication.data_type != recipe.precision.dtype
    if recipe.zero.stage > 0 and recipe.precision.dtype != "fp32" and differs:
        yield from without_effect(
            resolved,
            ("communication.data_type",),
            f"from stage 1 on DeepSpeed sends what precision.dtype ({recipe.precision.dtype}) computes in",
        )


@rule
def one_rank_sends_nothing(resolved: ResolvedRecipe) -> Iterator[Finding]:
    data_type = resolved.recipe.communication.data_type
    if resolved.world_size == 1 and resolved.is_set(("communication", "data_type")):
        yield warning(
            "communication.data_type",
            f"saves nothing: there is one rank, whose gradients become {data_type} all the same",
        )


@rule
def fp16_on_the_wire_overflows(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.zero.stage == 0 and recipe.communication.data_type == "fp16":
        yield warning(
            "communication.data_type",
            "gradients above 65504 become infinite on the way, and their step is left out; bf16 costs the same bytes "
            "and has fp32's range",
        )


# --- training ---------------------------------------------------------------------------------------------------


@rule
def nesterov_wants_momentum(resolved: ResolvedRecipe) -> Iterator[Finding]:
    optimizer = resolved.recipe.optimizer
    if optimizer.type == "SGD" and optimizer.nesterov and optimizer.momentum == 0:
        yield error(
            "optimizer.momentum",
            "0 leaves optimizer.nesterov nothing to look ahead by; set optimizer.nesterov to false",
        )


@rule
def unclipped_gradients_are_not_looked_at(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    is_watched = recipe.zero.stage > 0 or recipe.precision.dtype == "fp16"
    is_watched |= recipe.optimizer.type in ONE_BIT
    if recipe.train.gradient_clipping == 0 and not is_watched:
        yield warning(
            "train.gradient_clipping",
            "0 takes no norm, so that at stage 0 a gradient that is not finite ruins the weights unseen; 1000 clips as "
            "little, and such a step is left out",
        )


@rule
def no_warm_up_has_no_start(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.train.warmup_epochs == 0:
        words = ("warmup_min_steps", "warmup_momentum", "warmup_bias_lr")
        keys = tuple(f"train.{word}" for word in words)
        yield from without_effect(resolved, keys, "train.warmup_epochs is 0")


@rule
def adam_has_no_momentum_to_warm_up(resolved: ResolvedRecipe) -> Iterator[Finding]:
    kind = resolved.recipe.optimizer.type
    if kind != "SGD":
        yield from without_effect(resolved, ("train.warmup_momentum",), f"{kind} has no momentum")


@rule
def warm_up_must_end(resolved: ResolvedRecipe) -> Iterator[Finding]:
    train = resolved.recipe.train
    if resolved.is_set(("train", "warmup_epochs")) and train.warmup_epochs > train.epochs / 2:
        yield warning(
            "train.warmup_epochs",
            f"{train.warmup_epochs:g} of {train.epochs} epochs is more than half of the run; warm-up is cut there",
        )


@rule
def the_average_needs_its_switch(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if not resolved.recipe.train.ema:
        keys = ("train.ema_decay", "train.ema_ramp_steps", "train.ema_steps_per_step")
        yield from without_effect(resolved, keys, "train.ema is false")


@rule
def mosaic_must_have_epochs_left(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.data.augmentation.mosaic_off_epochs >= recipe.train.epochs:
        key = "data.augmentation.mosaic"
        yield from without_effect(resolved, (key,), "mosaic_off_epochs covers the whole run")


@rule
def mixup_blends_mosaics(resolved: ResolvedRecipe) -> Iterator[Finding]:
    augmentation = resolved.recipe.data.augmentation
    if augmentation.mosaic == 0:
        key = "data.augmentation.mixup"
        yield from without_effect(resolved, (key,), "data.augmentation.mosaic is 0")


@rule
def evaluation_must_come_before_the_end(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    for key, every in (
        ("evaluation.every_epochs", recipe.evaluation.every_epochs),
        ("checkpoint.every_epochs", recipe.checkpoint.every_epochs),
    ):
        if every > recipe.train.epochs:
            yield warning(
                key,
                f"{every} is more than the run's {recipe.train.epochs} epochs: only after the last",
            )


# --- data and tracking ------------------------------------------------------------------------------------------


@rule
def only_coco_has_folders_of_images(resolved: ResolvedRecipe) -> Iterator[Finding]:
    where = {"yolo": "data.yaml says where the images are", "shards": "shards hold the images"}
    if why := where.get(resolved.recipe.data.format):
        yield from without_effect(resolved, ("data.images", "data.val_images"), why)


@rule
def only_shards_are_shuffled_in_a_buffer(resolved: ResolvedRecipe) -> Iterator[Finding]:
    kind = resolved.recipe.data.format
    if kind != "shards":
        why = f"images of data.format {kind} are drawn from the whole data set"
        yield from without_effect(resolved, ("data.shuffle_buffer",), why)


@rule
def disabled_wandb_writes_nothing(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.tracking.wandb.mode == "disabled":
        words = ("project", "entity", "tags", "upload_weights")
        keys = tuple(f"tracking.wandb.{word}" for word in words)
        yield from without_effect(resolved, keys, "tracking.wandb.mode is disabled")
