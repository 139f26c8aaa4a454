"""sign1: one bit per number and one bfloat16 scale per block.

``c_i = s_b * sign(p_i)`` with ``s_b = mean(|p_i| for i in block b)``: the least-squares scale for a
one-bit code (error feedback as in arXiv 1901.09847, algorithm 1, by blocks). A block, filled up
with zeros, is summed in float64 by halves: the second half is added to the first until one number
is left (of an odd count the first half is the longer), so every machine gets the same scale.

Layout: numbers are taken flat, in C order, in blocks of `block`; the last block may be short. Bit
``i`` of the stream is bit ``i % 8`` (least significant first) of byte ``i // 8`` and is 1 where
``p_i >= 0``. Spare bits of the last byte are 0.

Error feedback: ``p = change + residual``; ``c`` is sent, ``p - c`` is the new residual, so that
``c + residual`` is ``p`` to rounding, for every number. With a gain g, ``g p`` is encoded, rounded
to float32; what is owed is ``p - c`` as before.

Exact zeros: the code has no zero. A block of zeros has scale 0: it sends 0 and owes 0. A zero
among other numbers is sent as ``+s`` and owes ``-s``, which the next send pays back; dropping that
debt would let the receiver drift by ``s`` with every send. Numbers that both ends know to be zero
(padding, rows that are never trained) should not take part at all: `masked` packs the others, so
that masked numbers cost no bits, do not lower the scale, and neither send nor owe anything. There
the property reads ``c = residual = 0`` where masked, ``c + residual = p`` elsewhere.

Forms: `cpu` (numba), `triton` (blocks that are a power of two, at least 8).
"""
