"""The course of a run on one rank: epochs, evaluations and checkpoints where they are due, to the end or until asked to leave."""

import time

from yolo.communication.metering.meter import TrafficMeter
from yolo.data.loader.loader import TrainingLoader
from yolo.data.shards.stream import StreamingLoader
from yolo.recipe.schema.recipe import Recipe
from yolo.training.checkpointing.manager import CheckpointManager
from yolo.training.checkpointing.run_directory import resume_hint
from yolo.training.engine.distributed import shutdown_distributed
from yolo.training.loop.run_logger import RunLogger
from yolo.training.loop.step import Loop
from yolo.training.loop.train_state import TrainState
from yolo.training.loop.validator import ValidationResult, Validator
from yolo.training.resilience.preemption import GracefulStop


class Trainer:
    """Trains from where a run stands to its end."""

    def __init__(
        self,
        recipe: Recipe,
        loop: Loop,
        loader: TrainingLoader | StreamingLoader,
        judge: Validator,
        checkpoints: CheckpointManager,
        meter: TrafficMeter,
        narrator: RunLogger,
        progress: TrainState,
    ) -> None:
        """`progress` says where the run stands; it moves on with each epoch."""
        self.recipe = recipe
        self.loop = loop
        self.loader = loader
        self.judge = judge
        self.checkpoints = checkpoints
        self.meter = meter
        self.narrator = narrator
        self.progress = progress
        self.verdict: ValidationResult | None = None
        """Of the newest evaluation."""
        self.plain = checkpoints.plain
        """The network that holds the averaged weights where something is evaluated or saved."""
        self._began = time.perf_counter() - progress.wall_seconds
        self._phase = ""

    def train(self) -> ValidationResult:
        """Train; returns what the last evaluation said. Collective.

        Raises LeftInOrder where a rank was asked to leave, once the checkpoint is on the disk.
        """
        self.narrator.training_starts(self.loop.schedule.steps, self.progress.steps_done)
        if self.progress.owes_evaluation:
            self._end_epoch(self.progress.epochs_done)
        for epoch in range(self.progress.epochs_done, self.recipe.train.epochs):
            self._train_epoch(epoch)
            self._end_epoch(epoch + 1)
        # The run may have been stopped after its last checkpoint, before its end.
        return self.verdict or self._evaluate(self.progress.epochs_done)

    def part(self) -> None:
        """Part from the other ranks; all that the run made is on the disk. Collective."""
        self.loop.standings.stop()
        shutdown_distributed()
        self.loop.leave.is_fulfilled = True

    def _train_epoch(self, epoch: int) -> None:
        self.meter.take()  # evaluations and checkpoints are not training
        steps = self.loader.epoch(epoch, self.progress.steps_into_epoch)
        for log in self.loop.epoch(self.progress.steps_done, steps):
            self.narrator.step(log)
            if self.loop.exchange.phase != self._phase:
                self._phase = self.loop.exchange.phase
                self.narrator.tell(f"step {log.step}: ranks exchange {self._phase}")
            steps_into_epoch = self.loop.step - epoch * len(self.loader)
            if self.loop.must_save and steps_into_epoch < len(self.loader):
                self._average_weights()
                self._save(self._reached(epoch, steps_into_epoch))
                self.meter.take()

    def _end_epoch(self, done: int) -> None:
        is_last = done == self.recipe.train.epochs
        must_evaluate = is_last or done % self.recipe.evaluation.every_epochs == 0
        must_save = (
            is_last or done % self.recipe.checkpoint.every_epochs == 0 or self.loop.must_save
        )
        if must_evaluate or must_save:
            self._average_weights()
        if must_evaluate and self.loop.guard.should_stop:
            # An evaluation may take longer than there is time.
            self._save(self._reached(done, owes_evaluation=True))
        ap = self._evaluate(done).ap if must_evaluate else None
        self.progress = self._reached(done, ap=ap)
        if must_save:
            self._save(self.progress)

    def _average_weights(self) -> None:
        self.loop.average.write_into(self.plain)

    def _evaluate(self, epochs_done: int) -> ValidationResult:
        self.loop.standings.set_phase(f"evaluating after epoch {epochs_done}")
        self.verdict = self.judge.judge(self.plain, self.progress.best_ap, self.narrator.tell)
        self.narrator.judged(self.verdict, epochs_done, self.loop.step)
        return self.verdict

    def _save(self, progress: TrainState) -> None:
        loop, checkpoints = self.loop, self.checkpoints
        if checkpoints.ranks.is_main:
            self.judge.save(self.plain, checkpoints.run.last_weights, self.narrator.tell)
        loop.check_replicas_equal()
        loop.standings.set_phase(f"writing the checkpoint of step {loop.step}")
        checkpoints.save(progress)
        loop.has_saved()
        if loop.guard.should_stop:
            if checkpoints.ranks.is_main:
                checkpoints.wait()
                self.narrator.tell(f"asked to leave; {resume_hint(checkpoints.run)}")
            self.part()
            raise GracefulStop

    def _reached(
        self,
        epochs_done: int,
        steps_into_epoch: int = 0,
        ap: float | None = None,
        owes_evaluation: bool = False,
    ) -> TrainState:
        return TrainState(
            epochs_done=epochs_done,
            steps_into_epoch=steps_into_epoch,
            steps_done=self.loop.step,
            owes_evaluation=owes_evaluation,
            average_updates=self.loop.average.updates,
            ap=ap,
            best_ap=max(self.progress.best_ap, -1.0 if ap is None else ap),
            wall_seconds=time.perf_counter() - self._began,
            guard=self.loop.guard.state(),
            total=self.loop.recorder.total,
        )
