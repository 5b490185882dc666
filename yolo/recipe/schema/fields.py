"""The base class of all sections of a recipe, and the types of their values."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Key = tuple[str, ...]
"""A value's place in a recipe: ("train", "epochs")."""


class Section(BaseModel):
    """One section of a recipe: unknown keys are errors, nothing is coerced, nothing changes after reading.

    The docstring under a field is its documentation in the reference page and the JSON Schema.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def setting(default: Any = ..., *, unit: str = "", only_for: Sequence[str] = ()) -> Any:
    """A field with its unit, and the strategies that use it if not all do; bounds belong to the field's type."""
    extra: dict[str, Any] = {"unit": unit, "only_for": list(only_for)}
    return Field(default, json_schema_extra={name: each for name, each in extra.items() if each})


def refuse_bool(value: object) -> object:
    """Python's True is the int 1, so `stage: true` would otherwise mean stage 1."""
    if isinstance(value, bool):
        raise ValueError("is not a number")
    return value


def whole(value: object) -> object:
    """YAML reads 5e8 as a float; a float without a fraction is a count, 0.5 is not."""
    value = refuse_bool(value)
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def _multiple_of_32(value: int) -> int:
    if value % 32:
        below, above = value // 32 * 32, value // 32 * 32 + 32
        raise ValueError(
            f"must be a multiple of 32, the largest stride of n to x: {below} or {above}"
        )
    return value


def _no_line_breaks(value: str) -> str:
    if not value.strip() or "\n" in value.strip():
        raise ValueError("must be one line of text")
    return value.strip()


Auto = Literal["auto"]
"""Computed from other values and from the world size; `yolo config` shows the result and the formula."""

HIGHEST_COUNT = 10**10
Count = Annotated[int, Field(ge=1, le=HIGHEST_COUNT), BeforeValidator(whole)]
CountOrZero = Annotated[int, Field(ge=0, le=HIGHEST_COUNT), BeforeValidator(whole)]
Stage = Annotated[Literal[0, 1, 2, 3], BeforeValidator(whole)]
Share = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(refuse_bool)]
HueShare = Annotated[float, Field(ge=0.0, le=0.4), BeforeValidator(refuse_bool)]
"""1.4 times the highest of a hue's 180 steps still fits into a byte."""
Gain = Annotated[float, Field(ge=0.0, le=100.0), BeforeValidator(refuse_bool)]
HIGHEST_RATE = 10.0
Rate = Annotated[float, Field(gt=0.0, le=HIGHEST_RATE), BeforeValidator(refuse_bool)]
RateOrZero = Annotated[float, Field(ge=0.0, le=10.0), BeforeValidator(refuse_bool)]
Duration = Annotated[float, Field(gt=0.0, le=10_000.0), BeforeValidator(refuse_bool)]
DurationOrZero = Annotated[float, Field(ge=0.0, le=10_000.0), BeforeValidator(refuse_bool)]
Degrees = Annotated[float, Field(ge=0.0, le=180.0), BeforeValidator(refuse_bool)]
Momentum = Annotated[float, Field(ge=0.0, lt=1.0), BeforeValidator(refuse_bool)]
ImageSize = Annotated[
    int, Field(ge=64, le=16_384), BeforeValidator(whole), AfterValidator(_multiple_of_32)
]
Gigabytes = Annotated[float, Field(gt=0.0, le=100_000.0), BeforeValidator(refuse_bool)]
Port = Annotated[int, Field(ge=1024, le=65535), BeforeValidator(whole)]
OneLine = Annotated[str, AfterValidator(_no_line_breaks), Field(min_length=1, max_length=200)]
