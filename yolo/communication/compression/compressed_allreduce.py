"""The mean of a vector over the ranks at one bit an element, with error feedback.

Each rank sends the signs of its vector, with one scale a block, to the rank that averages that part; the mean goes out
to all in the same form. What a compression leaves out is added to the next: on the sender's side in `worker_error`, on
the averaging side in `server_error` (Tang et al., 1-bit Adam, ICML 2021, section 5.1 and figure 3).

The scale of a block is the mean of its absolute values, which among all scales leaves out least; it travels in the
message of the signs, so that a bucket costs one all-to-all and one all-gather.
"""

from dataclasses import dataclass

import deepspeed.comm as dist
import torch

from yolo.communication.compression.blocks import BlockLayout
from yolo.communication.compression.sign_packing import SignTable, pack_signs

BUCKET_ELEMENTS = 2**23
"""1 MiB of signs a bucket: a larger one would keep the network waiting for the packing of all of it."""
_FLOAT = 4
"""Bytes of a scale or of a note on the wire, whatever type the vector has."""


class CompressedAllReduce:
    """Averages vectors of one layout over all ranks; holds the error feedback of this rank.

    `vector` is (layout.length,). With one rank nothing is sent, and the vector is compressed all the same: what the
    method costs in accuracy shows on one rank too.
    """

    def __init__(self, layout: BlockLayout, dtype: torch.dtype) -> None:
        self.ranks = dist.get_world_size()
        self.rank = dist.get_rank()
        self.layout = layout
        self.worker_error = layout.vector(dtype)
        table = SignTable(dtype, layout.device)
        grain = self.ranks * layout.block
        buckets = max(1, round(layout.length / BUCKET_ELEMENTS))
        step = -(-layout.length // (grain * buckets)) * grain
        spans = [
            slice(start, min(start + step, layout.length))
            for start in range(0, layout.length, step)
        ]
        self.server_error = torch.zeros(
            layout.length // self.ranks, dtype=dtype, device=layout.device
        )
        """Of this rank's part of each bucket, one after the other."""
        self._buckets: list[_Bucket] = []
        done = 0
        for span in spans:
            part = (span.stop - span.start) // self.ranks
            error = self.server_error[done : done + part]
            self._buckets.append(_Bucket(self, span, error, table))
            done += part

    def average(self, vector: torch.Tensor, note: torch.Tensor) -> torch.Tensor:
        """Replace the vector by the compressed mean, the same bits on every rank; returns each rank's note (ranks,).

        A note is one number (fp32, scalar) that rides along, because a collective of its own would cost a round trip.
        """
        for bucket in self._buckets:
            bucket.send_signs(vector, note)
        for bucket in self._buckets:
            bucket.send_mean()
        for bucket in self._buckets:
            bucket.receive(vector)
        return self._buckets[0].notes

    def state_dict(self) -> dict[str, torch.Tensor]:
        """This rank's error feedback; without it a resumed run would lose what was left to send."""
        return {"worker_error": self.worker_error, "server_error": self.server_error}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take up what `state_dict` returned on the same rank."""
        self.worker_error.copy_(state["worker_error"])
        self.server_error.copy_(state["server_error"])


@dataclass(frozen=True, slots=True)
class _Message:
    """Rows of bytes for or from each rank, and what they hold: `words` = a note and the scales, then `signs`."""

    rows: torch.Tensor
    words: torch.Tensor
    signs: torch.Tensor

    @classmethod
    def of(cls, rows: int, blocks: int, block: int, device: torch.device) -> "_Message":
        words = _FLOAT * (1 + blocks)
        memory = torch.zeros(rows, words + blocks * block // 8, dtype=torch.uint8, device=device)
        return cls(memory, memory[:, :words].view(torch.float32), memory[:, words:])


class _Bucket:
    """A stretch of the vector under way: sent, averaged, received."""

    def __init__(
        self, owner: CompressedAllReduce, span: slice, server_error: torch.Tensor, table: SignTable
    ) -> None:
        layout, ranks = owner.layout, owner.ranks
        block, device, dtype = layout.block, layout.device, server_error.dtype
        self.ranks = ranks
        self.block = block
        self.table = table
        self.span = span
        self.worker_error = owner.worker_error[span]
        self.server_error = server_error
        counts = layout.counts[span.start // block : span.stop // block].to(dtype)
        is_real = layout.is_real[span]
        part = server_error.numel()
        mine = slice(owner.rank * part, (owner.rank + 1) * part)
        self.worker_side = _Compression(counts, is_real, block)
        self.server_side = _Compression(counts.view(ranks, -1)[owner.rank], is_real[mine], block)
        blocks = part // block
        self.outgoing = _Message.of(ranks, blocks, block, device)
        self.incoming = _Message.of(ranks, blocks, block, device)
        self.mean_out = _Message.of(1, blocks, block, device)
        self.mean_in = _Message.of(ranks, blocks, block, device)
        self.mean = torch.empty(part, dtype=dtype, device=device)
        self.scratch = torch.empty(ranks * part, dtype=dtype, device=device)
        self.work = None

    @property
    def notes(self) -> torch.Tensor:
        return self.incoming.words[:, 0].clone()

    def send_signs(self, vector: torch.Tensor, note: torch.Tensor) -> None:
        """Compress this rank's vector; each part goes to the rank that averages it."""
        compensated = torch.add(vector[self.span], self.worker_error, out=self.worker_error)
        scales, signs = self.worker_side.split(compensated, self.scratch)
        self.outgoing.words[:, 0] = note
        self.outgoing.words[:, 1:] = scales.view(self.ranks, -1)
        self.outgoing.signs.copy_(signs.view(self.ranks, -1))
        if self.ranks == 1:
            self.incoming.rows.copy_(self.outgoing.rows)
        else:
            self.work = dist.all_to_all_single(
                self.incoming.rows, self.outgoing.rows, async_op=True
            )

    def send_mean(self) -> None:
        """Average what the ranks sent of this rank's part; the mean, compressed, goes to all."""
        self._wait()
        part = self.mean.numel()
        mean = self.mean.zero_().view(-1, self.block)
        for scales, signs in zip(self.incoming.words[:, 1:], self.incoming.signs, strict=True):
            unpacked = self.table.unpack(signs, self.scratch[:part]).view(-1, self.block)
            mean.addcmul_(unpacked, scales.to(mean.dtype)[:, None])
        self.mean.div_(self.ranks)
        compensated = self.server_error.add_(self.mean)
        scales, signs = self.server_side.split(compensated, self.scratch[:part])
        self.mean_out.words[0, 1:] = scales
        self.mean_out.signs[0] = signs
        if self.ranks == 1:
            self.mean_in.rows.copy_(self.mean_out.rows)
        else:
            self.work = dist.all_gather_into_tensor(
                self.mean_in.rows.view(-1), self.mean_out.rows.view(-1), async_op=True
            )

    def receive(self, vector: torch.Tensor) -> None:
        """Put the mean of every part into the vector."""
        self._wait()
        scales = self.mean_in.words[:, 1:].reshape(-1, 1).to(vector.dtype)
        values = self.table.unpack(self.mean_in.signs.reshape(-1), vector[self.span])
        values.view(-1, self.block).mul_(scales)

    def _wait(self) -> None:
        if self.work is not None:
            self.work.wait()
            self.work = None


class _Compression:
    """Splits a vector into scales and signs, and leaves in it what they do not say."""

    def __init__(self, counts: torch.Tensor, is_real: torch.Tensor, block: int) -> None:
        self.block = block
        self.counts = counts
        self.padding = None if bool(is_real.all()) else ~is_real

    def split(
        self, compensated: torch.Tensor, scratch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales (n / block,) in fp32 and packed signs (n / 8,); `compensated` (n,) becomes the error."""
        # No sign says 0, and the scales would take what was received there for values.
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
