"""One run on one rank, from the recipe to the summary: everything is set up here, and its course begins."""

from collections.abc import Sequence
from pathlib import Path

import torch

from yolo.communication.metering.meter import TrafficMeter
from yolo.data.shards.stream import training_loader
from yolo.errors import CheckpointError
from yolo.model import YOLOv5
from yolo.model.io.weights import load_weights
from yolo.model.loss import detection_loss
from yolo.planner.auto_strategy import Choice, choose
from yolo.planner.prediction import Data
from yolo.recipe import ResolvedRecipe, canonical_text, deepspeed_config
from yolo.recipe.render.resolved_yaml import effective_yaml
from yolo.recipe.resolve.prepare import PreparedRecipe
from yolo.training.checkpointing.compatibility import RunConfig
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.metadata import latest_valid
from yolo.training.checkpointing.run_directory import RunDirectory, choose_run, named_run
from yolo.training.engine.build import start_engine, start_exchange
from yolo.training.engine.distributed import (
    DistributedContext,
    broadcast_object,
    init_distributed,
    run_on_main,
)
from yolo.training.loop.auto_precision import TORCH_DTYPES
from yolo.training.loop.auto_settings import RecipeRequest, settle_micro_batch, settle_precision
from yolo.training.loop.datasets import open_datasets
from yolo.training.loop.ema import ModelEMA
from yolo.training.loop.lr_schedule import LRSchedule
from yolo.training.loop.metrics import MetricsAccumulator
from yolo.training.loop.multi_scale import ImageSizes
from yolo.training.loop.plan_comparison import Expectation
from yolo.training.loop.run_logger import RunLogger
from yolo.training.loop.step import Loop
from yolo.training.loop.summary import RunSummary
from yolo.training.loop.train_state import TrainState
from yolo.training.loop.trainer import Trainer
from yolo.training.loop.validator import Validator
from yolo.training.resilience.anomaly_guard import StabilityGuard
from yolo.training.resilience.heartbeat import HeartbeatMonitor
from yolo.training.resilience.preemption import PreemptionHandler
from yolo.training.resilience.rollback import Rollback


def train(recipe_path: Path, overrides: Sequence[str], run_path: Path | None) -> None:
    """Train a recipe as one of the ranks that the launcher started.

    Raises YoloError for whatever the user can put right.
    """
    asked = RecipeRequest(recipe_path, tuple(overrides))
    prepared = asked.prepare()
    choice = None
    if prepared.resolved.recipe.strategy == "auto":
        choice = choose(recipe_path, overrides, prepared.resolved)
        asked = asked.with_overrides(*choice.overrides)
        prepared = asked.prepare()
    ranks = init_distributed(prepared.resolved.recipe)
    run = _open_run(prepared.resolved, ranks, run_path)
    recipe = prepared.resolved.recipe
    request = PreemptionHandler.listen(run.path, ranks.is_main, recipe.checkpoint.leave_seconds)
    standings = HeartbeatMonitor.start(ranks, run.path, recipe.communication.timeout_seconds)
    with standings.attribute_failure():
        _train_in(run, asked, prepared, choice, ranks, request, standings)


def _train_in(
    run: RunDirectory,
    asked: RecipeRequest,
    prepared: PreparedRecipe,
    choice: Choice | None,
    ranks: DistributedContext,
    request: PreemptionHandler,
    standings: HeartbeatMonitor,
) -> None:
    """Settle what is still open, and train in a run's folder."""
    found: list[str] = []
    checkpoint = latest_valid(run, ranks, found.append)
    if micro_batch := settle_micro_batch(prepared.resolved, ranks, checkpoint):
        asked = asked.with_overrides(micro_batch)
    precision = None
    if prepared.resolved.loaded.recipe.precision.dtype == "auto":
        precision = settle_precision(asked, prepared.resolved.recipe, ranks, checkpoint)
        asked = asked.with_overrides(f"precision.dtype={precision.dtype}")
    if micro_batch or precision:
        prepared = asked.prepare()
    resolved = prepared.resolved
    run_on_main(ranks, lambda: _write_down(resolved, run))
    narrator = RunLogger(resolved, run, ranks)
    is_success = False
    try:
        for warning in prepared.warnings:
            narrator.tell(f"warning: {warning}")
        for damage in found:
            narrator.tell(damage)
        if precision is not None:
            narrator.tell(precision.reason)
        if choice is not None:
            for reason in choice.reasons:
                narrator.tell(reason)
            if ranks.is_main:
                run.plan.write_text(choice.plan.as_json() + "\n", encoding="utf-8")
        _train(resolved, run, checkpoint, ranks, narrator, request, standings)
        is_success = True
    finally:
        narrator.stop(is_success)


def _train(
    resolved: ResolvedRecipe,
    run: RunDirectory,
    checkpoint: Path | None,
    ranks: DistributedContext,
    narrator: RunLogger,
    request: PreemptionHandler,
    standings: HeartbeatMonitor,
) -> None:
    recipe = resolved.recipe
    standings.set_phase("preparing the data")
    datasets = open_datasets(recipe, run, ranks, narrator.tell, narrator.counting)
    torch.manual_seed(recipe.train.seed)
    model = YOLOv5(recipe.model.variant, len(datasets.class_names), datasets.anchors)
    if recipe.model.weights is not None and checkpoint is None:
        # Followed by one rank for all: the path may lead through `latest`, which soon is this run.
        weights: Path = broadcast_object(ranks, Path(recipe.model.weights).resolve())
        loaded = load_weights(weights, model, allow_mismatch=True)
        narrator.tell(f"{weights}: {loaded.summary()}")
    plain = YOLOv5(recipe.model.variant, len(datasets.class_names), datasets.anchors)
    plain.to(ranks.device).requires_grad_(False)

    engine = start_engine(model, recipe, ranks, narrator.tell)
    exchange = start_exchange(engine, recipe)
    average = ModelEMA(engine.module, recipe.train)
    loader = training_loader(datasets.train_images, recipe, ranks.rank, ranks.world_size)
    schedule = LRSchedule(recipe, len(loader))
    if concern := exchange.plan(schedule.warmup_steps, schedule.steps):
        narrator.tell(f"warning: {concern}")
    meter = TrafficMeter().attach()
    recorder = MetricsAccumulator(meter, ranks, recipe.train.global_batch)
    progress = TrainState()
    guard = StabilityGuard(recipe.stability, ranks)
    checkpoints = CheckpointManager(
        run,
        engine,
        exchange,
        average,
        plain,
        RunConfig.of(recipe, datasets.train, ranks),
        ranks,
        recipe.checkpoint.keep,
        narrator.tell,
    )
    if checkpoint is not None:
        standings.set_phase(f"reading the checkpoint {checkpoint.name}")
        progress = checkpoints.load(checkpoint)
        recorder.total = progress.total
        guard.load(progress.guard)
        narrator.tell(f"going on after {progress.position} of {run.path}")
    elif recipe.checkpoint.resume == "auto":
        narrator.tell(
            "checkpoint.resume auto: no unfinished run with a checkpoint since the last finished one; beginning anew"
        )
    expectation = Expectation.of(resolved, Data(len(datasets.train), len(datasets.class_names)))
    narrator.expectation = expectation

    criterion = detection_loss(plain, recipe)
    dtype = TORCH_DTYPES[recipe.precision.dtype]
    loop = Loop(
        engine,
        exchange,
        criterion,
        schedule,
        average,
        recorder,
        guard,
        Rollback(checkpoints, guard, loader.images_of, dtype, run.events),
        request,
        standings,
        ranks,
        ImageSizes(recipe, plain.stride[-1]),
        dtype,
        log_every_steps=recipe.tracking.log_every_steps,
        check_weights_every=recipe.communication.check_weights_every,
        save_every_steps=recipe.checkpoint.every_steps,
    )
    loop.step = progress.steps_done
    loop.check_replicas_equal()
    judge = Validator(datasets, recipe, ranks, run)

    if ranks.is_main:
        try:
            run.become_latest()  # not before: a run that could not start leaves `latest` to the one before it
        except OSError as error:
            narrator.tell(f"warning: {run.path.parent / 'latest'} does not name this run: {error}")
    resumed_from = progress.epochs_done
    course = Trainer(recipe, loop, loader, judge, checkpoints, meter, narrator, progress)
    verdict = course.train()
    if ranks.is_main:
        checkpoints.wait()
        comparisons = expectation.comparisons(recorder.total, engine, ranks) if expectation else []
        summary = RunSummary.of(
            resolved.name,
            recorder,
            course.progress,
            verdict,
            resumed_from,
            guard,
            ranks,
            comparisons,
        )
        summary.write(run.summary)
        narrator.end(summary, comparisons)
        run.finished.write_text("the run reached its end\n", encoding="utf-8")
    course.part()  # nobody waits at the end for what the first rank still sends to W&B


def _open_run(
    resolved: ResolvedRecipe, ranks: DistributedContext, path: Path | None
) -> RunDirectory:
    """The run's folder, chosen by the first rank and made there; errors reach every rank."""
    resume = resolved.recipe.checkpoint.resume

    def choose_and_create() -> RunDirectory:
        chosen = named_run(path, resume) if path else choose_run(resolved.name, resume)
        try:
            chosen.create()
        except OSError as error:
            raise CheckpointError(f"{chosen.path}: {error}") from error
        return chosen

    return run_on_main(ranks, choose_and_create)


def _write_down(resolved: ResolvedRecipe, run: RunDirectory) -> None:
    try:
        run.recipe.write_text(effective_yaml(resolved), encoding="utf-8")
        run.deepspeed_json.write_text(
            canonical_text(deepspeed_config(resolved.recipe)), encoding="utf-8"
        )
    except OSError as error:
        raise CheckpointError(f"{run.path}: {error}") from error
