"""sign1: one bit per number and one bfloat16 scale per block.

``c_i = s_b * sign(p_i)`` with ``s_b = mean(|p_i| for i in block b)``: the least-squares scale for a
one-bit code (error feedback as in arXiv 1901.09847, algorithm 1, by blocks). A block, filled up
with zeros, is summed in float64 by halves: the second half is added to the first until one number
is left (of an odd count the first half is the longer), so every machine gets the same scale.

Layout: numbers are taken flat, in C order, in blocks of `block`; the last block may be short. Bit
``i`` of the stream is bit ``i % 8`` (least significant first) of byte ``i // 8`` and is 1 where
``p_i >= 0``. Spare bits of the last byte are 0.
"""
