"""What the first rank shows and writes down while a run goes on; the other ranks are silent."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from yolo.data.progress_protocol import ProgressCallback, no_progress
from yolo.evaluation.metrics import Metrics
from yolo.recipe import ResolvedRecipe
from yolo.recipe.render.resolved_yaml import effective_json, effective_yaml
from yolo.tracking.console import ConsoleProgress, CountProgress
from yolo.tracking.history import read_history
from yolo.tracking.metrics_log import MetricsLog
from yolo.tracking.plan_report import PredictedAndMeasured, comparison_rows, plan_figures
from yolo.tracking.records import SamplePicture
from yolo.tracking.report import Chart, ReportContent, write_report
from yolo.tracking.wandb_run import WandbRun
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext
from yolo.training.loop.metrics import StepMetrics
from yolo.training.loop.plan_comparison import Expectation
from yolo.training.loop.summary import RunSummary
from yolo.training.loop.validator import ValidationResult


class RunLogger:
    """Console, metrics.jsonl, Weights & Biases and the report, told the same things at the same time."""

    def __init__(
        self, resolved: ResolvedRecipe, run: RunDirectory, ranks: DistributedContext
    ) -> None:
        self._resolved = resolved
        self._run = run
        self._is_first = ranks.is_main
        self._progress: ConsoleProgress | None = None
        self._log: MetricsLog | None = None
        self._wandb = WandbRun()
        self._metrics: Metrics | None = None
        self._samples: Sequence[SamplePicture] = ()
        self.expectation: Expectation | None = None
        """What was predicted of the run; to be set before its first step."""
        if self._is_first:
            self._log = MetricsLog(run.metrics, self.tell)
            self._wandb = WandbRun.start(
                resolved.recipe.tracking.wandb,
                run.path,
                f"{resolved.name} {run.path.name}",
                effective_json(resolved),
                warn=self.tell,
            )

    def tell(self, text: str) -> None:
        """Say something on a line of its own."""
        if self._progress is not None:
            self._progress.note(text)
        elif self._is_first:
            print(text, file=sys.stderr, flush=True)

    def counting(self, what: str, total: int) -> AbstractContextManager[ProgressCallback]:
        """Show how far some work before the training is."""
        return CountProgress(what, total) if self._is_first else no_progress(what, total)

    def training_starts(self, steps: int, steps_done: int) -> None:
        """The loop is entered; a resumed run has steps behind it."""
        if self._is_first:
            epochs = self._resolved.recipe.train.epochs
            self._progress = ConsoleProgress(steps, epochs, steps_done)

    def step(self, log: StepMetrics) -> None:
        """Some steps were taken."""
        if self._progress is not None and self._log is not None:
            self._progress.update(log.step, log.epoch, log.loss, log.images_per_second)
            beside: dict[str, float] = {}
            if self.expectation is not None:
                expected = self.expectation
                beside = plan_figures(expected.figures(log.step), expected.measured(log))
            self._log.step(log, beside)
            self._wandb.log_step(log, beside)

    def judged(self, verdict: ValidationResult, epoch: int, step: int) -> None:
        """An evaluation was made."""
        if self._progress is None or self._log is None or verdict.metrics is None:
            return
        self._metrics = verdict.metrics
        self._progress.precision(verdict.ap, epoch)
        self._log.evaluation(step, epoch, verdict.metrics)
        self._wandb.log_evaluation(step, epoch, verdict.metrics, verdict.samples)
        if verdict.is_best:
            self._samples = verdict.samples

    def end(self, summary: RunSummary, comparisons: Sequence[PredictedAndMeasured]) -> None:
        """The run reached its end: the report is written and the closing table shown."""
        if self._progress is None:
            return
        self._wandb.log_comparisons(summary.steps, summary.epochs, comparisons)
        # Once: every call copies the file into the run's own folder.
        self._wandb.log_weights(self._run.best_weights)
        wandb_folder = self._run.path / "wandb" if self._wandb.is_recording else None
        rows = summary.rows(self._run, wandb_folder) + comparison_rows(comparisons)
        self._write_report(self._run.report, rows, comparisons)
        self._progress.summary(rows)

    def stop(self, is_success: bool) -> None:
        """The run is over, one way or the other."""
        if self._progress is not None:
            self._progress.close()
        if self._log is not None:
            self._log.close()
        self._wandb.finish(0 if is_success else 1)

    def _write_report(
        self,
        path: Path,
        rows: Sequence[tuple[str, str]],
        comparisons: Sequence[PredictedAndMeasured],
    ) -> None:
        # Matplotlib, which no other rank needs, takes half a second of every start to import.
        from yolo.tracking.charts import (
            comparison_chart,
            confusion_chart,
            precision_recall_chart,
            training_chart,
        )

        charts = [Chart("Training", training_chart(read_history(self._run.metrics)))]
        if comparisons:
            charts.append(Chart("Predicted and measured", comparison_chart(comparisons)))
        if self._metrics is not None:
            charts.append(Chart("Precision over recall", precision_recall_chart(self._metrics)))
            charts.append(Chart("Confusion matrix", confusion_chart(self._metrics.confusion)))
        write_report(
            path,
            ReportContent(
                title=f"{self._resolved.name}: {self._resolved.recipe.description}",
                summary=rows,
                charts=charts,
                classes=self._metrics.per_class if self._metrics else (),
                samples=self._samples,
                class_names=self._metrics.confusion.labels[:-1] if self._metrics else (),
                recipe=effective_yaml(self._resolved),
            ),
        )
