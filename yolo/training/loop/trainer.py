"""Trains a recipe on one rank: the loop over epochs, and what follows each step, in a fixed order on all ranks."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from yolo.communication.consistency import check_replicas_equal
from yolo.communication.metering.meter import TrafficMeter
from yolo.data.loader.loader import TrainingLoader
from yolo.data.loader.samples import TrainingBatch
from yolo.data.shards.stream import StreamingLoader
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.run_directory import RunDirectory, resume_hint
from yolo.training.engine.distributed import DistributedContext, shutdown_distributed
from yolo.training.loop.metrics import MetricsAccumulator
from yolo.training.loop.precise_batchnorm import PreciseBatchNorm
from yolo.training.loop.rollback import Rollback
from yolo.training.loop.run_logger import RunLogger
from yolo.training.loop.step import Outcome, StepResult, TrainStep
from yolo.training.loop.validator import ValidationResult, Validator
from yolo.training.resilience.anomaly_guard import Anomaly
from yolo.training.resilience.heartbeat import HeartbeatMonitor
from yolo.training.resilience.preemption import GracefulStop, PreemptionHandler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RankServices:
    """What a rank works with besides the model and the data."""

    run: RunDirectory
    context: DistributedContext
    heartbeat: HeartbeatMonitor
    preemption: PreemptionHandler
    run_logger: RunLogger


class Trainer:
    """Trains from the state's position to the end of the run."""

    def __init__(
        self,
        recipe: Recipe,
        services: RankServices,
        train_step: TrainStep,
        loader: TrainingLoader | StreamingLoader,
        validator: Validator,
        precise_batchnorm: PreciseBatchNorm,
        checkpoints: CheckpointManager,
    ) -> None:
        self.recipe = recipe
        self.services = services
        self.heartbeat = services.heartbeat
        self.train_step = train_step
        self.state = train_step.state
        self.loader = loader
        self.validator = validator
        self.precise_batchnorm = precise_batchnorm
        self.checkpoints = checkpoints
        self.metrics = MetricsAccumulator(
            TrafficMeter().attach(),
            services.context,
            recipe.train.global_batch,
            self.state.total,
        )
        self.rollback = Rollback(
            checkpoints, loader.images_of, train_step.dtype, services.run.events
        )
        self._phase = ""
        self._is_check_due = False
        self._is_save_due = False

    def train(self) -> ValidationResult:
        """Train to the end of the run; returns the last evaluation. Collective.

        Raises GracefulStop, once the checkpoint is on the disk, if a rank was asked to stop, and TrainingDiverged on
        all ranks if skipping steps and rolling back do not help.
        """
        state, epochs = self.state, self.recipe.train.epochs
        self.services.run_logger.on_train_start(self.train_step.schedule.steps, state.step)
        result = self._end_epoch() if state.owes_evaluation else None
        while state.epochs_done < epochs:
            self._train_epoch()
            state.epochs_done, state.steps_into_epoch = state.epochs_done + 1, 0
            result = self._end_epoch()
        # The run may have been stopped between its last checkpoint and its end.
        return result or self._evaluate()

    def shutdown(self) -> None:
        """Shut down the process group, once all that the run made is on the disk. Collective."""
        self.heartbeat.stop()
        shutdown_distributed()
        self.services.preemption.is_fulfilled = True

    # --- one epoch ----------------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        """Train the rest of an epoch."""
        self.metrics.discard_traffic()  # of evaluations and checkpoints
        self.state.ap = None
        self.state.engine.train()
        for batch in self._batches():
            result = self.train_step(batch)
            self._after_step(result, batch)
        self._sync_at_epoch_end()
        if self.metrics.has_steps:
            self._log_metrics(result.lr)

    def _batches(self) -> Iterator[Sequence[TrainingBatch]]:
        """The micro batches of each step left in the epoch; the waits for them are measured."""
        steps = self.loader.epoch(self.state.epochs_done, self.state.steps_into_epoch)
        while True:
            self.metrics.start_step()
            self.heartbeat.set_phase(f"waiting for the images of step {self.state.step + 1}")
            batch = next(steps, None)
            if batch is None:
                return
            self.metrics.batch_ready()
            yield batch

    def _after_step(self, result: StepResult, batch: Sequence[TrainingBatch]) -> None:
        state, recipe, step = self.state, self.recipe, result.step
        state.steps_into_epoch += 1
        # The other ranks do not know whether a local step was applied; the average must stay equal on all.
        is_averaged = result.outcome is not Outcome.SKIPPED or result.is_local
        state.ema.update(int(is_averaged), is_synced=self._is_synced)
        is_applied = result.outcome is Outcome.APPLIED
        self.metrics.end_step(result.losses if is_applied else None)
        self._handle_anomalies(result, batch)
        check_every = recipe.communication.check_weights_every
        self._is_check_due |= bool(check_every) and step % check_every == 0
        if self._is_check_due and self._is_synced:
            self.check_replicas()
        save_every = recipe.checkpoint.every_steps
        self._is_save_due |= bool(save_every) and step % save_every == 0
        if step % recipe.tracking.log_every_steps == 0 or self._must_save:
            self._log_metrics(result.lr)
            if self._must_save and state.steps_into_epoch < len(self.loader):
                self._write_average()
                self._save()
                self.metrics.discard_traffic()

    def _sync_at_epoch_end(self) -> None:
        """Make the weights equal on all ranks, if they are not."""
        self.metrics.start_step()
        is_behind = not self._is_synced
        if is_behind:
            self.heartbeat.set_phase(f"coming together after step {self.state.step}", waits=True)
            self.state.strategy.flush()
        self.metrics.end_epoch()
        self.state.ema.update(0)
        if is_behind:
            self._sync_guard()

    @property
    def _is_synced(self) -> bool:
        return self.state.strategy.steps_since_sync == 0

    @property
    def _must_save(self) -> bool:
        """Whether a checkpoint is due now, not at the epoch's end, and ranks have the same weights."""
        return (self._is_save_due or self.state.guard.should_stop) and self._is_synced

    # --- anomalies ----------------------------------------------------------------------------------------------

    def _handle_anomalies(self, result: StepResult, batch: Sequence[TrainingBatch]) -> None:
        """Let the guard check the step; the same on all ranks."""
        state = self.state
        is_mean = state.strategy.averages_gradients and not result.is_local
        norm = state.engine.get_global_grad_norm() if is_mean else None
        anomalies = state.guard.observe(
            result.step,
            is_applied=result.outcome is not Outcome.SKIPPED,
            has_gradient=result.outcome is Outcome.APPLIED,
            norm=None if norm is None else float(norm),
            is_local=result.is_local,
            is_scaling=state.skipped_steps.is_scale_falling,
        )
        if result.outcome is not Outcome.APPLIED or any(each.was_applied for each in anomalies):
            self.rollback.suspect(result.step, batch)
        if result.is_local and self._is_synced:
            self._sync_guard()
        else:
            self._respond(anomalies)

    def _sync_guard(self) -> None:
        """Exchange what the guards found during local steps."""
        step = self.state.step
        self.heartbeat.set_phase(f"adding up what ranks found until step {step}", waits=True)
        wants_to_stop = self.train_step.wants_to_stop()
        self._respond(self.state.guard.sync(step, wants_to_stop, self.services.context.device))

    def _respond(self, anomalies: Sequence[Anomaly]) -> None:
        for anomaly in anomalies:
            self.rollback.record(self.state.step, anomaly)
        if anomalies and self.state.guard.must_roll_back:
            self.rollback.roll_back(self.state.step)

    def check_replicas(self) -> None:
        """Raise RanksDiverged if ranks that should have equal weights do not; to be called when synced."""
        step = self.state.step
        self.heartbeat.set_phase(f"comparing weights after step {step}", waits=True)
        check_replicas_equal(self.state.engine.module, f"step {step}")
        self._is_check_due = False

    # --- logs, evaluations, checkpoints -------------------------------------------------------------------------

    def _log_metrics(self, lr: float) -> None:
        """Average the metrics of the steps since the last log over all ranks, and log them; collective."""
        state, step = self.state, self.state.step
        self.heartbeat.set_phase(f"adding up the figures of step {step}", waits=True)
        norm = state.engine.get_global_grad_norm()
        epoch = step / self.train_step.schedule.steps_per_epoch
        self.services.run_logger.on_step(self.metrics.log(step, epoch, lr, norm))
        if state.strategy.phase != self._phase:
            self._phase = state.strategy.phase
            logger.info("step %d: ranks exchange %s", step, self._phase)

    def _end_epoch(self) -> ValidationResult | None:
        """Evaluate and save, if due after the last epoch done."""
        state, recipe = self.state, self.recipe
        is_last = state.epochs_done == recipe.train.epochs
        must_evaluate = is_last or state.epochs_done % recipe.evaluation.every_epochs == 0
        must_save = (
            is_last or state.epochs_done % recipe.checkpoint.every_epochs == 0 or self._must_save
        )
        if must_evaluate or must_save:
            self._write_average()
        state.owes_evaluation = must_evaluate
        if must_evaluate and state.guard.should_stop:
            self._save()  # an evaluation may take longer than there is time
        result = self._evaluate() if must_evaluate else None
        if must_save:
            self._save()
        return result

    def _write_average(self) -> None:
        """Write the averaged weights into the plain network; collective.

        At an epoch's end with BatchNorm's statistics for them. A run that must stop, or only saves, has no time for that.
        """
        state, plain = self.state, self.checkpoints.plain
        state.ema.write_into(plain)
        if not (state.steps_into_epoch or state.guard.should_stop):
            self.heartbeat.set_phase(f"estimating BatchNorm's statistics after step {state.step}")
            self.precise_batchnorm.write_into(plain, state.epochs_done)

    def _evaluate(self) -> ValidationResult:
        state = self.state
        self.heartbeat.set_phase(f"evaluating after epoch {state.epochs_done}")
        result = self.validator.validate(self.checkpoints.plain, state.best_ap)
        self.services.run_logger.on_evaluation(result, state.epochs_done, state.step)
        state.ap, state.owes_evaluation = result.ap, False
        state.best_ap = max(state.best_ap, -1.0 if result.ap is None else result.ap)
        return result

    def _save(self) -> None:
        """Save a checkpoint; raises GracefulStop afterwards if a rank was asked to stop."""
        context, run, step = self.services.context, self.services.run, self.state.step
        if context.is_main:
            self.validator.save(self.checkpoints.plain, run.last_weights)
        self.check_replicas()
        self.heartbeat.set_phase(f"writing the checkpoint of step {step}")
        self.checkpoints.save()
        self._is_save_due = False
        if self.state.guard.should_stop:
            if context.is_main:
                self.checkpoints.wait()
                logger.info("asked to stop; %s", resume_hint(run))
            self.shutdown()
            raise GracefulStop
