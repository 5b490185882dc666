"""What was predicted of a run beside what it measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PredictedAndMeasured:
    """One figure."""

    what: str
    unit: str
    """Seconds or bytes."""
    predicted: float
    measured: float

    @property
    def error(self) -> float | None:
        """Signed, as a share of what was measured; None where nothing was."""
        return self.predicted / self.measured - 1 if self.measured else None

    def in_words(self) -> str:
        """For a table."""
        scale, unit = (1e3, "ms") if self.unit == "seconds" else (1e-6, "MB")
        error = "" if self.error is None else f" ({self.error:+.1%})"
        return f"{self.predicted * scale:.3g} {unit} predicted, {self.measured * scale:.3g} {unit} measured{error}"


def comparison_rows(comparisons: Sequence[PredictedAndMeasured]) -> list[tuple[str, str]]:
    """Names and words."""
    return [(each.what.replace("_", " "), each.in_words()) for each in comparisons]


def plan_figures(predicted: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Both under names that stand side by side in a chart."""
    figures = {f"plan/{what}_predicted": value for what, value in predicted.items()}
    return figures | {
        f"plan/{what}_measured": measured[what] for what in predicted if what in measured
    }
