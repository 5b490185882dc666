"""`precision`: the number format of the computation."""

from typing import Literal

from yolo.recipe.schema.fields import Section, setting


class PrecisionSection(Section):
    """Mixed precision by DeepSpeed's `torch_autocast`: parameters, BatchNorm and the loss stay in fp32."""

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto")
    """What convolutions compute in; fp16 scales the loss, and wants a GPU or a processor with fp16 arithmetic. `auto` is bf16 where the ranks, as they start, measure that they compute faster in it, else fp32; until then it counts as fp32."""
