"""Sets up a run on one rank, from the recipe to the summary."""

import logging
import os
import time
from pathlib import Path

import torch

from yolo.data.shards.stream import training_loader
from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.model.io.weights import load_weights
from yolo.model.loss import detection_loss
from yolo.planner.plan import choose
from yolo.planner.prediction import Data
from yolo.recipe import PreparedRecipe, ResolvedRecipe, canonical_text, deepspeed_config
from yolo.recipe.render.resolved_yaml import effective_yaml
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.atomic_dir import room_for
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.metadata import latest_valid
from yolo.training.checkpointing.run_directory import RunDirectory, choose_run, claim, named_run
from yolo.training.checkpointing.train_state import TrainState
from yolo.training.engine.build import build_strategy, start_engine
from yolo.training.engine.distributed import (
    DistributedContext,
    broadcast_object,
    init_distributed,
    run_on_main,
)
from yolo.training.engine.ema import ModelEMA
from yolo.training.loop.auto_settings import settle
from yolo.training.loop.datasets import Datasets, open_datasets
from yolo.training.loop.lr_schedule import LRSchedule
from yolo.training.loop.plan_comparison import PlanComparison
from yolo.training.loop.precise_batchnorm import PreciseBatchNorm
from yolo.training.loop.run_logger import RunLogger, log_to_console
from yolo.training.loop.step import TrainStep
from yolo.training.loop.summary import RunSummary
from yolo.training.loop.trainer import RankServices, Trainer
from yolo.training.loop.validator import Validator
from yolo.training.resilience.anomaly_guard import StabilityGuard
from yolo.training.resilience.fencing import VARIABLE as START_TOKEN
from yolo.training.resilience.heartbeat import HeartbeatMonitor
from yolo.training.resilience.preemption import PreemptionHandler

logger = logging.getLogger(__name__)

FULL_DISK_SECONDS = 3600
"""The result of a run waits this long for space."""


def train(prepared: PreparedRecipe, run_path: Path | None) -> None:
    """Train a recipe as one of the ranks that the launcher started.

    Raises YoloError for anything that the user can fix.
    """
    plan = None
    if prepared.resolved.recipe.strategy == "auto":
        plan = choose(prepared.resolved)
        prepared = prepared.with_values(*plan.overrides)
    recipe = prepared.resolved.recipe
    context = init_distributed(recipe, os.environ.get(START_TOKEN, ""))
    console = log_to_console(context.is_main)
    run = _open_run(prepared.resolved, context, run_path)
    preemption = PreemptionHandler.listen(
        run.path, context.is_main, recipe.checkpoint.leave_seconds
    )
    heartbeat = HeartbeatMonitor.start(context, run.path, recipe.communication.timeout_seconds)
    with heartbeat.attribute_failure():
        checkpoint = latest_valid(run, context)
        prepared = settle(prepared, context, checkpoint)
        resolved = prepared.resolved
        run_on_main(context, lambda: _write_configuration(resolved, run))
        run_logger = RunLogger(resolved, run, console, context.is_main)
        is_success = False
        try:
            for warning in prepared.warnings:
                logger.warning(warning)
            if plan is not None:
                for reason in plan.reasons:
                    logger.info(reason)
                if context.is_main:
                    run.plan.write_text(plan.plan.as_json() + "\n", encoding="utf-8")
            services = RankServices(run, context, heartbeat, preemption, run_logger)
            _train(resolved, services, checkpoint)
            is_success = True
        finally:
            run_logger.close(is_success)


def _train(resolved: ResolvedRecipe, services: RankServices, checkpoint: Path | None) -> None:
    """Build model, engine and trainer, resume from the checkpoint if there is one, train, and write the summary."""
    recipe, run, context = resolved.recipe, services.run, services.context
    services.heartbeat.set_phase("preparing the data")
    datasets = open_datasets(recipe, run, context, services.run_logger.counting)
    model, plain = _build_models(recipe, datasets, context, is_new=checkpoint is None)
    engine = start_engine(model, recipe, context)
    strategy = build_strategy(engine, recipe)
    ema = ModelEMA(engine.module, recipe.train)
    loader = training_loader(datasets.train_images, recipe, context.data_rank, context.data_ranks)
    schedule = LRSchedule(recipe, len(loader))
    if concern := strategy.plan(schedule.warmup_steps, schedule.steps):
        logger.warning(concern)
    state = TrainState(engine, strategy, ema, StabilityGuard(recipe.stability, context))
    config = RunConfig.of(recipe, datasets.train, context)
    checkpoints = CheckpointManager(run, state, plain, config, context, recipe.checkpoint.keep)
    if checkpoint is not None:
        services.heartbeat.set_phase(f"reading the checkpoint {checkpoint.name}")
        checkpoints.load(checkpoint)
        logger.info("Resumed from %s of %s", state.state_dict().position, run.path)
    elif recipe.checkpoint.resume == "auto":
        logger.info(
            "checkpoint.resume auto: no unfinished run with a checkpoint since the last finished one; starting a new run"
        )
    resumed_from = state.epochs_done
    data = Data(len(datasets.train), len(datasets.class_names))
    comparison = services.run_logger.plan = PlanComparison.of(resolved, data)
    train_step = TrainStep(
        state,
        detection_loss(plain, recipe),
        schedule,
        recipe,
        context,
        services.heartbeat,
        services.preemption.is_requested,
    )
    validator = Validator(datasets, recipe, context, run)
    precise = PreciseBatchNorm(datasets, recipe, context)
    trainer = Trainer(recipe, services, train_step, loader, validator, precise, checkpoints)
    trainer.check_replicas()
    result = trainer.train()
    trainer.shutdown()  # no rank waits for what the main rank still writes, or sends to W&B
    if context.is_main:
        checkpoints.wait()
        _wait_for_room(run, validator, services.preemption)
        comparisons = comparison.comparisons(state.total, engine, context) if comparison else []
        summary = RunSummary.of(
            resolved.name, state, result, resumed_from, context.world_size, comparisons
        )
        summary.write(run.summary)
        services.run_logger.on_train_end(summary, comparisons)
        run.finished.write_text("the run reached its end\n", encoding="utf-8")


def _wait_for_room(run: RunDirectory, validator: Validator, preemption: PreemptionHandler) -> None:
    """Wait until all weights are on the disk and the run's result fits on it.

    Raises CheckpointError after `FULL_DISK_SECONDS`, or if the run is asked to stop.
    """
    for second in range(FULL_DISK_SECONDS):
        problem = validator.write_unsaved() or room_for(0, run.path)
        if problem is None:
            return
        if preemption.is_requested():
            break
        if second == 0:
            what = f"training is done, and its result waits up to {FULL_DISK_SECONDS // 60} minutes"
            logger.warning("%s; %s for space in %s", problem, what, run.path)
        time.sleep(1)
    raise CheckpointError(f"{run.path}: the run's result could not be written: {problem}")


def _build_models(
    recipe: Recipe, datasets: Datasets, context: DistributedContext, is_new: bool
) -> tuple[YOLOv5, YOLOv5]:
    """The network to train, and a plain one that holds the averaged weights when they are evaluated or saved."""
    shape = recipe.model.variant, len(datasets.class_names), datasets.anchors
    torch.manual_seed(recipe.train.seed)
    model = YOLOv5(*shape)
    if recipe.model.weights is not None and is_new:
        # Resolved by one rank for all: the path may lead through `latest`, which soon is this run.
        weights: Path = broadcast_object(context, Path(recipe.model.weights).resolve())
        loaded = load_weights(weights, model, datasets.class_names)
        logger.info("%s: %s", weights, loaded.summary())
        for concern in loaded.concerns:
            logger.warning("model.weights: %s", concern)
    plain = YOLOv5(*shape)
    plain.to(context.device).requires_grad_(False)
    return model, plain


def _open_run(
    resolved: ResolvedRecipe, context: DistributedContext, path: Path | None
) -> RunDirectory:
    """Choose and create the run's folder on the main rank; errors are raised on all ranks."""
    resume = resolved.recipe.checkpoint.resume

    def choose_and_create() -> RunDirectory:
        chosen = named_run(path, resume) if path else choose_run(resolved.name, resume)
        try:
            chosen = chosen if path else claim(chosen)
            chosen.create()
        except OSError as error:
            raise CheckpointError(f"{chosen.path}: {error}") from error
        return chosen

    return run_on_main(context, choose_and_create)


def _write_configuration(resolved: ResolvedRecipe, run: RunDirectory) -> None:
    try:
        # A comment may name a file whose name is not UTF-8.
        text = effective_yaml(resolved)
        run.recipe.write_text(text, encoding="utf-8", errors="backslashreplace")
        run.deepspeed_json.write_text(
            canonical_text(deepspeed_config(resolved.recipe)), encoding="utf-8"
        )
    except OSError as error:
        raise CheckpointError(f"{run.path}: {error}") from error
