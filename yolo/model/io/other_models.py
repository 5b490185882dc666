"""Name networks that are no YOLOv5 detectors of release 6 or later, by the names of their tensors. Never imports torch."""

import re
from collections.abc import Iterable

DETECTORS = "only YOLOv5's detectors of release 6 or later can be read"
TAKE = "take yolov5n.pt to yolov5x6.pt of these releases"
OTHER_MODELS = (
    (
        r"(\.dfl\.conv|\.one2one_cv\d)\.",
        "a network of YOLOv8 or later, or a YOLOv5u (a head without anchors)",
        TAKE,
    ),
    (
        r"\.implicit$",
        "a network of YOLOv7 or YOLOR (implicit tensors)",
        TAKE,
    ),
    (
        r"\.proto\.cv\d\.",
        "a segmentation model (it has a `proto` layer)",
        TAKE,
    ),
    (
        r"(^|\.)\d+\.linear\.weight$",
        "a classification model (it ends with a linear layer)",
        TAKE,
    ),
    (
        r"(^|\.)\d+\.cv4\.conv\.",
        "YOLOv5 of release 3 or before (BottleneckCSP)",
        f"{TAKE}, or train again",
    ),
    (
        r"(^|\.)0\.conv\.conv\.",
        "YOLOv5 of release 5 or before (its first layer is Focus)",
        f"{TAKE}, or train again",
    ),
    (
        r"(^|\.)module_list\.\d+\.|(^|\.)(28|20)\.m\.0\.bias$",
        "a network of YOLOv3",
        TAKE,
    ),
)
"""A tensor's name, the network that alone has it, and what to do; the first that fits is named."""


def other_model(names: Iterable[str]) -> str | None:
    """What a network is and what to do, in one line; None if it is none of the known ones."""
    listed = list(names)
    for pattern, what, advice in OTHER_MODELS:
        if any(re.search(pattern, name) for name in listed):
            return f"is {what}; {DETECTORS}: {advice}"
    return None
