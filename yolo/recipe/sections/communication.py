"""`communication`: how ranks exchange gradients."""

from typing import Literal

from yolo.recipe.section import Auto, Duration, Section, setting


class CommunicationSection(Section):
    """What goes over the network, and how long it may take."""

    data_type: Auto | Literal["fp32", "bf16", "fp16"] = setting("auto")
    """Number format of gradients on the wire; `auto` is fp32 at stage 0, and precision.dtype from stage 1 on (DeepSpeed allows no other there)."""
    timeout_minutes: Duration = setting(10.0, unit="minutes")
    """A collective that takes longer ends the run."""
