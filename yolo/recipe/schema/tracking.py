"""`tracking`: what is written down about a run, and where."""

from typing import Literal

from yolo.recipe.schema.fields import Auto, Count, CountOrZero, OneLine, Section, setting


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
    """Validation images logged with predicted and true boxes at each evaluation that is the best so far."""
    upload_weights: Auto | bool = setting("auto")
    """Log the best weights as an artifact; `auto` does so offline only, where it costs no traffic."""


class TrackingSection(Section):
    """Logs, and their rate."""

    log_every_steps: Count = setting(10, unit="optimizer steps")
    """Losses, rates, seconds and bytes are averaged over so many steps and written as one line."""
    wandb: WandbSection = WandbSection()
    """Weights & Biases."""
