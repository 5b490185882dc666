"""Which tensors of a file fit a network, and why others do not: names and shapes only. Never imports torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.architecture import VARIANTS, Shape, is_learned, layers, tensor_shapes
from yolo.errors import WeightsError

MAX_LISTED = 4
"""Tensors that a message names before it only counts them."""

Shapes = Mapping[str, Shape]
Reasons = tuple[tuple[str, str], ...]
"""Names of tensors that do not fit, each with the reason."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a network takes from a file of weights that may be another's."""

    matched: tuple[str, ...]
    skipped: Reasons
    concern: str
    """A warning with the likely cause, if a learned tensor of backbone or neck stays random; else empty."""

    @classmethod
    def of(cls, path: Path, found: Shapes, variant: str, classes: int) -> "Fit":
        """Compare a file's tensors with a network's. WeightsError if no learned one of backbone and neck fits."""
        network = tensor_shapes(variant, classes)
        skipped = misfits(found, network)
        reasons = dict(skipped)
        matched = tuple(name for name in network if name not in reasons)
        theirs, head = variant_of(found), last_layer(variant)
        # The last layer does not count: its biases fit any variant of the same classes.
        body = [name for name in network if is_learned(name) and not name.startswith(head)]
        lacking = [name for name in body if name in reasons]
        share = f"{len(body) - len(lacking)} of {len(body)} learned tensors of backbone and neck"
        cause, advice = "", f"use weights of yolov5{variant}"
        if theirs not in (None, variant):
            cause = f"weights are yolov5{theirs}, the recipe's network is yolov5{variant}: "
            advice = f"set model.variant={theirs}, or {advice}"
        if len(lacking) == len(body):
            examples = "" if cause else f" ({listed(skipped)})"
            raise WeightsError(f"{path}: {cause}{share} fit{examples}; {advice}")
        concern = f"{cause}only {share} loaded, the others start at random; {advice}"
        return cls(matched, skipped, concern if lacking else "")


def last_layer(variant: str) -> str:
    """How the names of its tensors begin; their shapes follow the number of classes."""
    return f"model.{len(layers(variant)) - 1}."


def variant_of(shapes: Shapes) -> str | None:
    """The variant whose tensors these are, whatever the number of classes; None if they are of none."""
    for variant in VARIANTS:
        body, head = tensor_shapes(variant, 1).items(), last_layer(variant)
        if all(shapes.get(name) == shape for name, shape in body if not name.startswith(head)):
            return variant
    return None


def misfits(found: Mapping[str, Sequence[int]], expected: Shapes) -> Reasons:
    """Tensors whose shape in a file differs from the network's, or that only one of them has."""
    reasons = []
    for name, shape in expected.items():
        if name not in found:
            reasons.append((name, "not in the file"))
        elif tuple(found[name]) != shape:
            both = f"{tuple(found[name])} in the file, {shape} in the network"
            reasons.append((name, both))
    reasons += [(name, "not in the network") for name in found if name not in expected]
    return tuple(reasons)


def listed(items: Reasons) -> str:
    """The first names with their reasons, and how many more there are."""
    named = ", ".join(f"{name} ({reason})" for name, reason in items[:MAX_LISTED])
    more = len(items) - MAX_LISTED
    return f"{named} and {more} more" if more > 0 else named
