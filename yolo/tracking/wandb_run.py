"""A run in Weights & Biases: offline unless the recipe says otherwise, and never a reason for training to stop."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo.recipe.schema.recipe import ResolvedWandb
from yolo.tracking.metric_names import X_AXES, evaluation_figures, step_figures
from yolo.tracking.plan_report import PredictedAndMeasured
from yolo.tracking.records import EvaluationResult, SamplePicture, StepResult

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 20.0
"""Online, so long is the service waited for before the run is written offline instead."""
FINISH_SECONDS = 120.0
"""Online, so long is the last upload waited for; `wandb sync` can send the rest."""
FLUSH_SECONDS = 1.0
"""What is not in the run's file dies with a killed process; W&B's own 15 s would lose that much."""
HOMES = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")
"""Where artifacts and tables wait for `wandb sync`; W&B would put them into the user's home, apart from their run."""

log = logging.getLogger(__name__)


class WandbRun:
    """The run, or nothing: after the first failure it is reported once and every later call does nothing."""

    def __init__(self, warn: Callable[[str], None] = log.warning) -> None:
        """A run that records nothing, as ranks other than the first have it; `start` makes a real one."""
        self._warn = warn
        self._run: wandb.Run | None = None
        self._must_log_weights = False
        self._own_variables: list[str] = []

    @classmethod
    def start(
        cls,
        settings: ResolvedWandb,
        run_directory: Path,
        name: str,
        config: Mapping[str, Any],
        warn: Callable[[str], None] = log.warning,
    ) -> "WandbRun":
        """Start the run, or go on with the run folder's own.

        Its files lie in `<run_directory>/wandb/`, its id in `<run_directory>/wandb_id`. Where the service cannot be
        reached, the run is written offline. Problems go to `warn`, one line each; nothing is raised.
        """
        self = cls(warn)
        if settings.mode != "disabled":
            self._attempt("starting", lambda: self._start(settings, run_directory, name, config))
        return self

    @property
    def is_recording(self) -> bool:
        """Whether anything that is logged will be kept."""
        return self._run is not None

    def log_step(self, result: StepResult, beside: Mapping[str, float] | None = None) -> None:
        """Log training steps, over the axis `step`, and further figures `beside` them."""
        figures = {**step_figures(result), **(beside or {})}
        self._send(
            "logging",
            lambda run: _log(run, result.step, result.epoch, figures, is_row_done=False),
        )

    def log_comparisons(
        self, step: int, epoch: float, found: Sequence[PredictedAndMeasured]
    ) -> None:
        """What was predicted of the run beside what it measured: a table and a chart."""

        def send(run: "wandb.Run") -> None:
            from yolo.tracking.wandb_media import comparison_table

            figures = {"plan/predicted_and_measured": comparison_table(found)}
            _log(run, step + 1, epoch, figures, is_row_done=True)  # the last step's row is complete
            for each in found:
                run.summary[f"plan/{each.what}_predicted"] = each.predicted
                run.summary[f"plan/{each.what}_measured"] = each.measured

        if found:
            self._send("logging the plan", send)

    def log_evaluation(
        self,
        step: int,
        epoch: float,
        result: EvaluationResult,
        samples: Sequence[SamplePicture] = (),
    ) -> None:
        """Log an evaluation over the axis `epoch`: figures, class table, P-R curves, confusion matrix, pictures.

        Comes after the `log_step` of the same step; the row is complete with it.
        """

        def send(run: "wandb.Run") -> None:
            from yolo.tracking.wandb_media import (
                class_table,
                confusion_chart,
                precision_recall_chart,
                sample_image,
            )

            figures: dict[str, Any] = {
                **evaluation_figures(result),
                "validation/classes": class_table(result),
                "validation/precision_recall": precision_recall_chart(result),
                "validation/confusion": confusion_chart(result),
            }
            if samples:
                class_names = result.confusion.labels[:-1]
                figures["validation/samples"] = [sample_image(s, class_names) for s in samples]
            _log(run, step, epoch, figures, is_row_done=True)

        self._send("logging an evaluation", send)

    def log_weights(self, path: Path) -> None:
        """Log a weights file as the run's model artifact, where `upload_weights` says so."""

        def send(run: "wandb.Run") -> None:
            import wandb

            artifact = wandb.Artifact(f"weights-{run.id}", type="model")
            artifact.add_file(str(path))
            run.log_artifact(artifact, aliases=["best"])

        if self._must_log_weights:
            self._send("logging the weights", send)

    def finish(self, exit_code: int = 0) -> None:
        """End the run; an exit code other than 0 marks it as failed."""

        def end(run: "wandb.Run") -> None:
            import wandb

            run.finish(exit_code=exit_code)
            wandb.teardown(exit_code)  # offline, `finish` does not wait until the file is whole

        self._send("finishing", end)
        self._stop()

    def _start(
        self,
        settings: ResolvedWandb,
        run_directory: Path,
        name: str,
        config: Mapping[str, Any],
    ) -> None:
        directory = run_directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        for variable in HOMES:
            if variable not in os.environ:
                os.environ[variable] = str(directory / "wandb")
                self._own_variables.append(variable)
        import wandb

        run_id = _settled_id(directory)

        def init(mode: str) -> "wandb.Run":
            return wandb.init(
                project=settings.project,
                entity=settings.entity,
                dir=str(directory),
                id=run_id,
                resume="allow",
                name=name,
                tags=list(settings.tags),
                config=dict(config),
                mode=mode,  # type: ignore[arg-type]
                settings=wandb.Settings(
                    silent=True,
                    console="off",  # the progress bar would fill the console log
                    init_timeout=INIT_SECONDS,
                    finish_timeout=FINISH_SECONDS,
                    x_transaction_log_flush_interval=FLUSH_SECONDS,
                ),
            )

        mode = settings.mode
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            self._warn("W&B: no API key, so the run is written offline; set WANDB_API_KEY")
            mode = "offline"
        try:
            self._run = init(mode)
        except Exception as error:
            if mode == "offline":
                raise
            self._warn(f"W&B: not reached ({_one_line(error)}), so the run is written offline")
            wandb.teardown()  # the service would not start a second run under one id
            mode = "offline"
            self._run = init(mode)
        self._must_log_weights = settings.upload_weights
        for axis in ("step", "epoch"):
            self._run.define_metric(axis, hidden=True)
        for pattern, axis in X_AXES:
            self._run.define_metric(pattern, step_metric=axis)
        for best in ("validation/AP", "validation/AP50"):
            self._run.define_metric(best, step_metric="epoch", summary="max")

    def _send(self, what: str, action: Callable[["wandb.Run"], None]) -> None:
        run = self._run
        if run is not None:
            self._attempt(what, lambda: action(run))

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever fails in there, training goes on
            self._warn(f"W&B: {what} failed, nothing more is recorded there: {_one_line(error)}")
            self._stop()

    def _stop(self) -> None:
        self._run = None
        for variable in self._own_variables:
            os.environ.pop(variable, None)
        self._own_variables.clear()


def _log(
    run: "wandb.Run", step: int, epoch: float, figures: Mapping[str, Any], is_row_done: bool
) -> None:
    # The optimizer step is W&B's own step too: a resumed offline run would otherwise count from 0 again.
    run.log({"step": step, "epoch": epoch, **figures}, step=step, commit=is_row_done)


def _settled_id(directory: Path) -> str:
    """The id that the folder's run goes on under; written down for the next start."""
    note = directory / "wandb_id"
    kept = note.read_text(encoding="utf-8").strip() if note.exists() else ""
    run_id = kept or secrets.token_hex(4)
    note.write_text(run_id + "\n", encoding="utf-8")
    return run_id


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
