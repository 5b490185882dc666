"""`precision`: the number format of the computation."""

from typing import Literal

from yolo.recipe.section import Section, setting


class PrecisionSection(Section):
    """Mixed precision by DeepSpeed's `torch_autocast`: parameters, BatchNorm and the loss stay in fp32."""

    dtype: Literal["fp32", "bf16", "fp16"] = setting("fp32")
    """What convolutions compute in; fp16 scales the loss, and wants a GPU or a processor with fp16 arithmetic."""
