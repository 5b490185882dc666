"""What becomes of numbers whose signs are all that is sent."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolo.communication.compression.blocks import BlockLayout
from yolo.communication.compression.compressed_allreduce import SignTable, pack_signs

TYPES = (torch.float32, torch.float64, torch.bfloat16)


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=8, max_size=64),
    st.sampled_from(TYPES),
)
@settings(max_examples=60)
def test_packed_signs_come_back_as_numpy_and_copysign_see_them(
    numbers: list[float], dtype: torch.dtype
) -> None:
    values = torch.tensor(numbers[: len(numbers) // 8 * 8], dtype=dtype)
    packed = pack_signs(values)
    assert packed.shape == (values.numel() // 8,)
    expected = np.packbits(~np.signbit(values.double().numpy()), bitorder="little")
    assert packed.tolist() == expected.tolist()
    unpacked = SignTable(dtype, values.device).unpack(packed, torch.empty_like(values))
    assert torch.equal(unpacked, torch.copysign(torch.ones_like(values), values))


def test_zeros_keep_their_own_sign() -> None:
    values = torch.tensor([0.0, -0.0] * 4)
    assert pack_signs(values).tolist() == [0b01010101]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 5),
    st.sampled_from([8, 16]),
)
@settings(max_examples=60)
def test_no_block_is_shared_and_ranks_get_whole_blocks(
    sizes: list[int], shards: int, block: int
) -> None:
    tensors = [torch.full((size,), float(number + 1)) for number, size in enumerate(sizes)]
    layout = BlockLayout(tensors, shards, block)
    vector = layout.vector(torch.float32)
    for view, tensor in zip(layout.views(vector), tensors, strict=True):
        view.copy_(tensor)
    assert layout.length % (shards * block) == 0
    for row, count in zip(vector.view(-1, block), layout.counts, strict=True):
        owners = set(row.tolist()) - {0.0}
        assert len(owners) <= 1
        assert int(count) == max(1, int(row.ne(0).sum()))
    assert torch.equal(layout.is_real, vector.ne(0))


def test_spans_of_groups_follow_each_other_and_hold_all_padding() -> None:
    layout = BlockLayout([torch.zeros(5), torch.zeros(9), torch.zeros(8)], shards=3, block=8)
    spans = layout.spans([1, 2])
    assert [(span.start, span.stop) for span in spans] == [(0, 8), (8, layout.length)]


@pytest.mark.parametrize("block", [256, 512, 1024])
def test_a_block_of_512_sends_the_fewest_bytes_of_a_yolov5(block: int) -> None:
    """A smaller one sends more scales, a larger one more padding after small tensors."""
    from yolo.model import YOLOv5

    def bits(size: int) -> float:
        layout = BlockLayout(list(YOLOv5("n", 80).parameters()), shards=2, block=size)
        return layout.length * (1 + 32 / size)

    assert bits(512) <= bits(block)
