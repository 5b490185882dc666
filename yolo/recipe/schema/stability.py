"""`stability`: what is done about steps that would spoil the weights."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from yolo.recipe.schema.fields import Count, CountOrZero, Section, refuse_bool, setting

Score = Annotated[
    float, Field(ge=0.0, le=1000.0, allow_inf_nan=False), BeforeValidator(refuse_bool)
]
Factor = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False), BeforeValidator(refuse_bool)]


class StabilitySection(Section):
    """A step whose loss or gradient is not finite, or far above the usual, is left out by all ranks alike."""

    spike_score: Score = setting(8.0, unit="robust z-score")
    """A loss or gradient norm is a spike when its logarithm lies this many standard deviations (1.4826 times the median absolute deviation) above the median of the last 100 steps; 0: only what is not finite is left out."""
    strikes: Count = setting(5, unit="steps")
    """So many bad steps among the last `strike_window`: back to the last good checkpoint, with the steps since then passed over."""
    strike_window: Count = setting(20, unit="steps")
    """See `strikes`."""
    rollbacks: CountOrZero = setting(3)
    """Times that a run goes back; then it stops, and says which layer and which images."""
    lr_factor: Factor = setting(0.5)
    """What the learning rate is multiplied with for a while after going back."""
    calm_steps: CountOrZero = setting(200, unit="steps")
    """That while."""
