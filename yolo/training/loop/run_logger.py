"""Logs a run: console, metrics.jsonl, Weights & Biases, report. Only the main rank logs."""

import logging
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
from yolo.tracking.metric_names import comparison_rows
from yolo.tracking.metrics_log import MetricsLog
from yolo.tracking.records import PredictedAndMeasured, SamplePicture, StepMetrics
from yolo.tracking.report import Chart, ReportContent, write_report
from yolo.tracking.wandb_run import WandbRun
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.loop.plan_comparison import PlanComparison
from yolo.training.loop.summary import RunSummary
from yolo.training.loop.validator import ValidationResult

logger = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints the main rank's log lines to standard error, above the progress bar while there is one."""

    def __init__(self, is_main: bool) -> None:
        super().__init__()
        self.bar: ConsoleProgress | None = None
        self.addFilter(lambda _: is_main)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record; a warning begins with `warning: `."""
        is_warning = record.levelno >= logging.WARNING
        text = ("warning: " if is_warning else "") + record.getMessage()
        if self.bar is not None:
            self.bar.note(text)
        else:
            print(text, file=sys.stderr, flush=True)


def log_to_console(is_main: bool) -> ConsoleHandler:
    """Send the log lines of this package to the console, on the main rank only."""
    handler = ConsoleHandler(is_main)
    package = logging.getLogger("yolo")
    package.handlers = [handler]
    package.setLevel(logging.INFO)
    package.propagate = False
    return handler


class RunLogger:
    """Writes a run's metrics to console, metrics.jsonl, Weights & Biases and report; does nothing on the other ranks."""

    def __init__(
        self,
        resolved: ResolvedRecipe,
        run: RunDirectory,
        console: ConsoleHandler,
        is_main: bool,
    ) -> None:
        self.plan: PlanComparison | None = None
        """What is predicted for the run; to be set before its first step, if the recipe names a profile."""
        self._resolved = resolved
        self._run = run
        self._is_main = is_main
        self._console = console
        self._log: MetricsLog | None = None
        self._wandb = WandbRun()
        self._metrics: Metrics | None = None
        self._samples: Sequence[SamplePicture] = ()
        if is_main:
            self._log = MetricsLog(run.metrics, logger.warning)
            self._wandb = WandbRun.start(
                resolved.recipe.tracking.wandb,
                run.path,
                f"{resolved.name} {run.path.name}",
                effective_json(resolved),
                warn=logger.warning,
            )

    def counting(self, what: str, total: int) -> AbstractContextManager[ProgressCallback]:
        """Show the progress of some work before training starts."""
        return CountProgress(what, total) if self._is_main else no_progress(what, total)

    def on_train_start(self, steps: int, steps_done: int) -> None:
        """Start the progress bar, at `steps_done` for a resumed run."""
        if self._is_main:
            epochs = self._resolved.recipe.train.epochs
            self._console.bar = ConsoleProgress(steps, epochs, steps_done)

    def on_step(self, metrics: StepMetrics) -> None:
        """Log the means over the steps since the last call."""
        bar = self._console.bar
        if bar is not None and self._log is not None:
            bar.update(metrics.step, metrics.epoch, metrics.loss, metrics.costs.images_per_second)
            plan = {} if self.plan is None else self.plan.figures(metrics)
            self._log.step(metrics, plan)
            self._wandb.log_step(metrics, plan)

    def on_evaluation(self, result: ValidationResult, epoch: int, step: int) -> None:
        """Log an evaluation."""
        bar = self._console.bar
        if bar is None or self._log is None or result.metrics is None:
            return
        self._metrics = result.metrics
        bar.precision(result.ap, epoch)
        self._log.evaluation(step, epoch, result.metrics)
        self._wandb.log_evaluation(step, epoch, result.metrics, result.samples)
        if result.is_best:
            self._samples = result.samples

    def on_train_end(
        self, summary: RunSummary, comparisons: Sequence[PredictedAndMeasured]
    ) -> None:
        """Write the report and show the closing table."""
        bar = self._console.bar
        if bar is None or self._log is None:
            return
        self._log.flush()  # the report reads it
        self._wandb.log_comparisons(summary.steps, summary.epochs, comparisons)
        # Once: every call copies the file into the run's own folder.
        self._wandb.log_weights(self._run.best_weights)
        wandb_folder = self._run.path / "wandb" if self._wandb.is_recording else None
        rows = summary.rows(self._run, wandb_folder) + comparison_rows(comparisons)
        self._write_report(self._run.report, rows, comparisons)
        bar.summary(rows)

    def close(self, is_success: bool) -> None:
        """Stop the bar, close the log and finish the W&B run."""
        if self._console.bar is not None:
            self._console.bar.close()
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
