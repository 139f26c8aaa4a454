"""sign1: one bit per number and one bfloat16 scale per block.

``c_i = s_b * sign(p_i)`` with ``s_b = mean(|p_i| for i in block b)``: the least-squares scale for a
one-bit code (error feedback as in arXiv 1901.09847, algorithm 1, by blocks). A block, filled up
with zeros, is summed in float64 by halves: the second half is added to the first until one number
is left (of an odd count the first half is the longer), so every machine gets the same scale.

Layout: numbers are taken flat, in C order, in blocks of `block`; the last block may be short. Bit
``i`` of the stream is bit ``i % 8`` (least significant first) of byte ``i // 8`` and is 1 where
``p_i >= 0``. Spare bits of the last byte are 0.

Error feedback: ``p = change + residual``; ``c`` is sent and ``p - c`` is the new residual. So
``c + residual`` equals ``p`` to rounding, for every number. With a gain g, ``g p`` is encoded,
rounded to float32, and the new residual is still ``p - c``.

Exact zeros: the code has no zero. A block of zeros has scale 0, so it sends 0 and its residual is
0. A zero among other numbers is sent as ``+s``, and its residual ``-s`` corrects that in the next
send. Without the residual the receiver would drift by ``s`` with every send. Numbers that both ends
know to be zero (padding, rows that are never trained) should not take part at all. `masked` packs
only the others: masked numbers cost no bits, do not lower the scale, and have ``c = residual = 0``.

Forms: `cpu` (numba) and `triton` (block sizes that are powers of two, at least 8).
"""
