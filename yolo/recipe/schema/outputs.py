"""`evaluation`, `checkpoint` and `tracking`: what a run measures, saves and logs."""

from typing import Literal

from yolo.recipe.schema.fields import (
    Auto,
    Count,
    CountOrZero,
    Duration,
    OneLine,
    Section,
    Share,
    setting,
)


class EvaluationSection(Section):
    """COCO average precision on the validation split."""

    every_epochs: Count = setting(1, unit="epochs")
    """Evaluate every this many epochs, and after the last."""
    confidence: Share = setting(0.001)
    """Detections below this are dropped before non-maximum suppression."""
    iou: Share = setting(0.6)
    """If two boxes of one class overlap more than this, the one with less confidence is dropped."""
    max_detections: Count = setting(300, unit="detections per image")
    """The most confident are kept."""
    rectangular: bool = setting(True)
    """Pad each image to the smallest rectangle that the network accepts, not to a square: less padding to compute."""


class CheckpointSection(Section):
    """DeepSpeed checkpoints, from which a run resumes."""

    every_epochs: Count = setting(1, unit="epochs")
    """Save every this many epochs, and after the last."""
    every_steps: CountOrZero = setting(0, unit="optimizer steps")
    """Save also within an epoch, every this many steps of the run (with local steps: at the next sync). A resumed run sees the epoch's remaining images. 0: not within an epoch."""
    keep: Count = setting(2, unit="checkpoints")
    """The newest that stay on disk; the best weights are kept beside them as weights/best.safetensors."""
    resume: str = setting("never")
    """`never` starts a new run. `auto` resumes this recipe's newest run that has a checkpoint, unless it or a later one is finished. Or a run's folder."""
    leave_seconds: Duration = setting(30.0, unit="seconds")
    """After SIGTERM, SIGINT or SIGUSR1: how long the ranks may take to end the step, write a checkpoint and shut down before they are killed; SLURM kills after its KillWait, 30 s."""


class WandbSection(Section):
    """Weights & Biases; offline by default, so that no account is needed."""

    mode: Literal["offline", "online", "disabled"] = setting("offline")
    """`offline` writes the run into its folder, for `wandb sync`; `online` needs WANDB_API_KEY."""
    project: OneLine = setting("yolov5-deepspeed")
    """The project that runs are listed under."""
    entity: OneLine | None = setting(None)
    """The team or user; none takes the account's own."""
    tags: tuple[OneLine, ...] = setting(())
    """Words to find the run by."""
    images: CountOrZero = setting(8, unit="images")
    """Validation images logged with predicted and true boxes at each evaluation that is the best until then."""
    upload_weights: Auto | bool = setting("auto")
    """Log the best weights as an artifact. `auto`: only offline, where it costs no traffic."""


class TrackingSection(Section):
    """Logs and their interval."""

    log_every_steps: Count = setting(10, unit="optimizer steps")
    """Losses, rates, seconds and bytes are averaged over this many steps and logged as one line."""
    wandb: WandbSection = WandbSection()
    """Weights & Biases."""
