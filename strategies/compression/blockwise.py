"""Codecs `int8` and `nf4`: an index into a codebook per number, a float32 scale per block.

A number is ``codebook[index] * absmax`` with absmax the largest magnitude of its block, as in
8-bit optimisers (arXiv 2110.02861, dynamic map) and QLoRA (arXiv 2305.14314, NF4). bitsandbytes
quantises. Decoding is the one product above, done here: the client and the coordinator, which may
run on unlike machines, must decode to equal bits, and bitsandbytes has several forms of it.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedmore.kernels.bitsandbytes_library import bitsandbytes
from fedmore.strategies.compression import layout
from fedmore.strategies.compression.dynamic_map import dynamic_map

SLICE = 1 << 20
"""Numbers that are decoded at a time; a multiple of every block."""


@dataclass(frozen=True)
class Blockwise:
    """`bits` an index, blocks of `block` numbers; two 4-bit indices a byte, the first one high."""

    tag: str
    bits: Literal[4, 8]
    block: int

    def size(self, count: int) -> int:
        """Bytes for a tensor of `count` numbers."""
        return 4 * -(-count // self.block) + -(-count * self.bits // 8)

    def encode_one(self, tensor: Tensor) -> bytes:
        """One tensor's bytes; raises `ValueError` for NaN or Inf."""
        values = layout.flat(self.tag, tensor)
        if not values.numel():
            return b""
        indices, absmax = self._quantize(values)
        return layout.raw(absmax) + layout.raw(indices)

    def _quantize(self, values_N: Tensor) -> tuple[Tensor, Tensor]:
        """Indices as bytes, and a scale per block."""
        library = _library()
        if self.bits == 8:
            book = codebook(8)
            indices, state = library.quantize_blockwise(values_N, book, blocksize=self.block)
        else:
            even = pad(values_N, (0, values_N.numel() % 2))  # the spare index is the one of zero
            indices, state = library.quantize_4bit(even, blocksize=self.block, quant_type="nf4")
        return indices.view(-1), state.absmax

    def decode_one(self, data: bytes, count: int) -> Tensor:
        """`count` numbers, float32 [count]; raises `WireError` for a scale that no codec makes."""
        cut = 4 * -(-count // self.block)
        absmax = layout.scales(self.tag, data[:cut], torch.float32)
        indices = layout.unraw(data[cut:], torch.uint8)
        numbers = torch.empty(count)
        for start in range(0, count, SLICE):  # what is needed on the way is larger than the result
            stop = min(start + SLICE, count)
            first, last = start // self.block, -(-stop // self.block)
            scale = absmax[first:last].repeat_interleave(self.block)[: stop - start]
            torch.mul(self._looked_up(indices, start, stop), scale, out=numbers[start:stop])
        return numbers

    def _looked_up(self, indices: Tensor, start: int, stop: int) -> Tensor:
        if self.bits == 8:
            return codebook(8)[indices[start:stop].int()]
        pairs = indices[start // 2 : -(-stop // 2)]
        found = torch.stack((pairs >> 4, pairs & 15), dim=1).view(-1)[: stop - start]
        return codebook(4)[found.int()]


@functools.cache
def codebook(bits: int) -> Tensor:
    """The 256 numbers of the dynamic map, or the 16 of NF4, float32, ascending in [-1, 1]."""
    table: Tensor
    if bits == 8:
        return dynamic_map()
    table = _library().get_4bit_type("nf4", device="cpu")
    return table


@functools.cache
def _library() -> Any:
    """Functions of bitsandbytes; its import takes seconds, so only who uses these codecs waits."""
    return bitsandbytes().functional
