"""The mean of a vector over the ranks at one bit per element, with error feedback.

Each rank sends the signs of its vector, with one scale per block, to the rank that averages that part. The mean is sent
to all in the same form. The error of each compression is added to the next one's input: the sender's in `worker_error`,
the averaging rank's in `server_error` (Tang et al., 1-bit Adam, ICML 2021, section 5.1 and figure 3).

The scale of a block is the mean of its absolute values, which gives the smallest error. It is part of the message of the
signs, so that a bucket costs one all-to-all and one all-gather.
"""

import deepspeed.comm as dist
import torch

from yolo.communication.compression.blocks import BlockLayout

BUCKET_ELEMENTS = 2**23
"""1 MiB of signs per bucket: with a larger one the network would wait until all of it is packed."""
_FLOAT = 4
"""Bytes of a scale or of an extra number on the wire, for any type of the vector."""
_GATHER = 0x0102040810204080
"""Times eight bytes of 0 or 1, read as one little-endian int64, this brings them into the top byte, the first lowest."""
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def pack_signs(values: torch.Tensor) -> torch.Tensor:
    """The inverted sign bit of each number: (n,) of any floating type -> (n / 8,) uint8; n is a multiple of 8.

    A set bit is a positive number. Zeros count by their own sign, as in `torch.copysign`. Plain torch, so that it runs on
    any device without a compiled extension.
    """
    positive = values.view(_INTEGERS[values.element_size()]).ge(0)
    return positive.view(torch.int64).mul_(_GATHER).bitwise_right_shift_(56).to(torch.uint8)


class SignTable:
    """Unpacks signs in plain torch: each byte -> eight times +1 or -1 of a floating type."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        byte = torch.arange(256, device=device)[:, None]
        bits = byte.bitwise_right_shift(torch.arange(8, device=device)).bitwise_and(1)
        self._signs = (2 * bits - 1).to(dtype)

    def unpack(self, packed: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """(n / 8,) uint8 -> `out` (n,), +1 or -1 each."""
        torch.index_select(self._signs, 0, packed.int(), out=out.view(-1, 8))
        return out


class CompressedAllReduce:
    """Averages vectors of one layout over all ranks; holds this rank's error feedback.

    With one rank nothing is sent, but the vector is compressed all the same: the cost in accuracy shows on one rank too.

    Args:
        layout: of the vectors; it divides among the ranks.
        dtype: of the vectors.
        extras: numbers that each rank sends to all others beside a vector.
    """

    def __init__(self, layout: BlockLayout, dtype: torch.dtype, extras: int = 0) -> None:
        self.ranks = dist.get_world_size()
        self.rank = dist.get_rank()
        self.layout = layout
        self.worker_error = layout.vector(dtype)
        self.server_error = self.worker_error.new_zeros(layout.length // self.ranks)
        """For this rank's part of each bucket, one after the other."""
        table = SignTable(dtype, layout.device)
        grain = self.ranks * layout.block
        buckets = max(1, round(layout.length / BUCKET_ELEMENTS))
        step = -(-layout.length // (grain * buckets)) * grain
        starts = range(0, layout.length, step)
        spans = [slice(start, min(start + step, layout.length)) for start in starts]
        errors = self.server_error.split(step // self.ranks)
        self._buckets = [
            _CompressedBucket(self, span, error, table, 0 if number else extras)
            for number, (span, error) in enumerate(zip(spans, errors, strict=True))
        ]

    def average(self, vector: torch.Tensor, extras: torch.Tensor | None = None) -> torch.Tensor:
        """Replace the vector (layout.length,) by the compressed mean, the same bits on every rank.

        Returns each rank's `extras` (ranks, extras) in fp32: they are sent with the vector to save the latency of another
        collective.
        """
        first = self._buckets[0]
        if extras is not None:
            first.outgoing.extras.copy_(extras)
        for bucket in self._buckets:
            bucket.send_signs(vector)
        for bucket in self._buckets:
            bucket.send_mean()
        for bucket in self._buckets:
            bucket.receive(vector)
        return first.incoming.extras.clone()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """This rank's error feedback; without it a resumed run would lose what was not sent yet."""
        return {"worker_error": self.worker_error, "server_error": self.server_error}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `state_dict` returned on the same rank."""
        self.worker_error.copy_(state["worker_error"])
        self.server_error.copy_(state["server_error"])


class _Message:
    """Rows of bytes for or from each rank, with views of their parts."""

    def __init__(
        self, rows: int, blocks: int, block: int, device: torch.device, extras: int = 0
    ) -> None:
        size = _FLOAT * (extras + blocks)
        self.rows = torch.zeros(rows, size + blocks * block // 8, dtype=torch.uint8, device=device)
        numbers = self.rows[:, :size].view(torch.float32)
        self.extras, self.scales = numbers[:, :extras], numbers[:, extras:]
        self.signs = self.rows[:, size:]


class _CompressedBucket:
    """A part of the vector that is sent, averaged and received by itself."""

    def __init__(
        self,
        owner: CompressedAllReduce,
        span: slice,
        server_error: torch.Tensor,
        table: SignTable,
        extras: int,
    ) -> None:
        layout, ranks = owner.layout, owner.ranks
        block, device = layout.block, layout.device
        self.ranks = ranks
        self.block = block
        self.table = table
        self.span = span
        self.worker_error = owner.worker_error[span]
        self.server_error = server_error
        counts = layout.counts[span.start // block : span.stop // block].to(server_error.dtype)
        is_real = layout.is_real[span]
        shard = server_error.numel()
        own = slice(owner.rank * shard, (owner.rank + 1) * shard)
        self.worker_side = _SignCompressor(counts, is_real, block)
        self.server_side = _SignCompressor(counts.view(ranks, -1)[owner.rank], is_real[own], block)
        blocks = shard // block
        self.outgoing = _Message(ranks, blocks, block, device, extras)
        self.incoming = _Message(ranks, blocks, block, device, extras)
        self.mean_out = _Message(1, blocks, block, device)
        self.mean_in = _Message(ranks, blocks, block, device)
        self.mean = torch.empty_like(server_error)
        self.scratch = torch.empty_like(self.worker_error)
        self.work = None

    def send_signs(self, vector: torch.Tensor) -> None:
        """Compress this rank's vector and send each shard to the rank that averages it."""
        compensated = torch.add(vector[self.span], self.worker_error, out=self.worker_error)
        scales, signs = self.worker_side.compress(compensated, self.scratch)
        self.outgoing.scales.copy_(scales.view(self.ranks, -1))
        self.outgoing.signs.copy_(signs.view(self.ranks, -1))
        if self.ranks == 1:
            self.incoming.rows.copy_(self.outgoing.rows)
        else:
            self.work = dist.all_to_all_single(
                self.incoming.rows, self.outgoing.rows, async_op=True
            )

    def send_mean(self) -> None:
        """Average what the ranks sent of this rank's shard; compress the mean and send it to all."""
        self._wait()
        received = self.table.unpack(self.incoming.signs.reshape(-1), self.scratch)
        scales = self.incoming.scales.to(received.dtype)[:, :, None]
        received.view(self.ranks, -1, self.block).mul_(scales)
        torch.sum(received.view(self.ranks, -1), 0, out=self.mean)
        compensated = self.server_error.add_(self.mean.div_(self.ranks))
        own_scales, signs = self.server_side.compress(compensated, self.mean)
        self.mean_out.scales[0] = own_scales
        self.mean_out.signs[0] = signs
        if self.ranks == 1:
            self.mean_in.rows.copy_(self.mean_out.rows)
        else:
            self.work = dist.all_gather_into_tensor(
                self.mean_in.rows.view(-1), self.mean_out.rows.view(-1), async_op=True
            )

    def receive(self, vector: torch.Tensor) -> None:
        """Write the mean of every shard into the vector."""
        self._wait()
        scales = self.mean_in.scales.reshape(-1, 1).to(vector.dtype)
        values = self.table.unpack(self.mean_in.signs.reshape(-1), vector[self.span])
        values.view(-1, self.block).mul_(scales)

    def _wait(self) -> None:
        if self.work is not None:
            self.work.wait()
            self.work = None


class _SignCompressor:
    """Splits a vector into scales and signs, and keeps the error in the vector."""

    def __init__(self, counts: torch.Tensor, is_real: torch.Tensor, block: int) -> None:
        self.block = block
        self.counts = counts
        self.padding = None if bool(is_real.all()) else ~is_real

    def compress(
        self, compensated: torch.Tensor, scratch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales (n / block,) in fp32 and packed signs (n / 8,); `compensated` (n,) becomes the error."""
        # Padding holds received signs, of which none is 0: they would count in the scales.
        if self.padding is not None:
            compensated.masked_fill_(self.padding, 0)
        values = compensated.view(-1, self.block)
        scratch = scratch.view(-1, self.block)
        torch.abs(values, out=scratch)
        scales = scratch.sum(1).div_(self.counts).float()
        signs = pack_signs(compensated)
        sent = torch.copysign(scales.to(values.dtype)[:, None], values, out=scratch)
        values.sub_(sent)
        return scales, signs
