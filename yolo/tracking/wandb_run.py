"""A run in Weights & Biases: offline by default; its failures never stop the training."""

import logging
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yolo.evaluation.metrics import Metrics
from yolo.recipe.schema.recipe import ResolvedWandb
from yolo.tracking.metric_names import X_AXES, evaluation_figures, step_figures
from yolo.tracking.records import PredictedAndMeasured, SamplePicture, StepMetrics

if TYPE_CHECKING:
    import wandb

INIT_SECONDS = 20.0
"""Online: how long to wait for the service before the run is written offline instead."""
FINISH_SECONDS = 120.0
"""Online: how long to wait for the last upload; `wandb sync` can send the rest."""
FLUSH_SECONDS = 1.0
"""A killed process loses what it has not flushed; W&B's default is 15 s."""
HOMES = ("WANDB_DATA_DIR", "WANDB_CACHE_DIR")
"""Artifacts and tables wait there for `wandb sync`; W&B's default is the user's home, away from their run."""

log = logging.getLogger(__name__)


class WandbRun:
    """The run, or nothing: the first failure is reported, and every later call does nothing."""

    def __init__(self, warn: Callable[[str], None] = log.warning) -> None:
        """A run that records nothing, for all ranks but the first; `start` makes a real one."""
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
        """Start the run, or resume the run of the folder.

        Its files are in `<run_directory>/wandb/`, its id in `<run_directory>/wandb_id`. If the service cannot be
        reached, the run is written offline. Problems are passed to `warn`, one line each; nothing is raised.
        """
        self = cls(warn)
        if settings.mode != "disabled":
            self._attempt("starting", lambda: self._start(settings, run_directory, name, config))
        return self

    @property
    def is_recording(self) -> bool:
        """Whether logged figures are recorded."""
        return self._run is not None

    def log_step(self, result: StepMetrics, beside: Mapping[str, float] | None = None) -> None:
        """Log training steps over the axis `step`, with further figures `beside` their own."""
        figures = {**step_figures(result), **(beside or {})}
        self._send(
            "logging",
            lambda run: _log(run, result.step, result.epoch, figures, is_row_done=False),
        )

    def log_comparisons(
        self, step: int, epoch: float, found: Sequence[PredictedAndMeasured]
    ) -> None:
        """Log predicted and measured figures of the run: a table, and each figure in the summary."""

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
        result: Metrics,
        samples: Sequence[SamplePicture] = (),
    ) -> None:
        """Log an evaluation over the axis `epoch`: figures, class table, P-R curves, confusion matrix, samples.

        Call it after the `log_step` of the same step; it completes the row.
        """

        def send(run: "wandb.Run") -> None:
            from yolo.tracking import wandb_media

            figures: dict[str, Any] = {
                **evaluation_figures(result),
                "validation/classes": wandb_media.class_table(result),
                "validation/precision_recall": wandb_media.precision_recall_chart(result),
                "validation/confusion": wandb_media.confusion_chart(result),
            }
            if samples:
                class_names = result.confusion.labels[:-1]
                figures["validation/samples"] = [
                    wandb_media.sample_image(sample, class_names) for sample in samples
                ]
            _log(run, step, epoch, figures, is_row_done=True)

        self._send("logging an evaluation", send)

    def log_weights(self, path: Path) -> None:
        """Log a weights file as the run's model artifact if `upload_weights` is set."""

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
            wandb.teardown(exit_code)  # offline, `finish` does not wait for the complete file

        self._send("finishing", end)
        self._stop()

    def _start(
        self, settings: ResolvedWandb, run_directory: Path, name: str, config: Mapping[str, Any]
    ) -> None:
        directory = run_directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        for variable in HOMES:
            if variable not in os.environ:
                os.environ[variable] = str(directory / "wandb")
                self._own_variables.append(variable)
        import wandb

        run_id = _saved_id(directory)

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
            wandb.teardown()  # the service starts no second run of the same id
            mode = "offline"
            self._run = init(mode)
        self._must_log_weights = settings.upload_weights
        for axis in ("step", "epoch"):
            self._run.define_metric(axis, hidden=True)
        for pattern, axis in X_AXES.items():
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
        except Exception as error:  # no failure of W&B may stop the training
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
    # Without `step`, W&B would count a resumed offline run from 0 again.
    run.log({"step": step, "epoch": epoch, **figures}, step=step, commit=is_row_done)


def _saved_id(directory: Path) -> str:
    """The id of the folder's run; saved for the next start."""
    file = directory / "wandb_id"
    saved = file.read_text(encoding="utf-8").strip() if file.exists() else ""
    run_id = saved or secrets.token_hex(4)
    file.write_text(run_id + "\n", encoding="utf-8")
    return run_id


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
