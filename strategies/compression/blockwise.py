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

from fedmore.strategies.compression import layout


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
        if self.bits == 4:
            indices = torch.stack((indices >> 4, indices & 15), dim=1).view(-1)[:count]
        numbers = codebook(self.bits)[indices.int()]
        return numbers * absmax.repeat_interleave(self.block)[:count]


@functools.cache
def codebook(bits: int) -> Tensor:
    """The 256 numbers of the dynamic map, or the 16 of NF4, float32, ascending in [-1, 1]."""
    table: Tensor
    if bits == 8:
        table = _library().create_dynamic_map()
    else:
        table = _library().get_4bit_type("nf4", device="cpu")
    return table


@functools.cache
def _library() -> Any:
    """Functions of bitsandbytes; its import takes seconds, so only who uses these codecs waits."""
    import bitsandbytes.functional

    return bitsandbytes.functional
