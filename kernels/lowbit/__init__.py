"""lowbit: weights that are trained as 1-, 2- or 4-bit numbers (arXiv 2307.16867).

Per matrix W of n numbers, with mean ``m`` and standard deviation ``s`` (divided by n - 1):

    z = (w - m) / (s + 1e-5)        standardised
    q = the code nearest to z       one of 2^bits constants for a standard normal z
    v = q s + m                     the weight in use

Codebooks (`codebooks`): in `median`, every code is the median of its cell (the paper's; one bit:
+-0.67449). In `squares`, every code is the mean of its cell, which has the least squared error
(Lloyd 1982; one bit: +-sqrt(2/pi)). Cells end halfway between codes; z on a border belongs to the
upper cell.

Backward: straight through from z to q, with m and s differentiable. With g = dL/dv and
``a = s / (s + 1e-5)``:

    dL/dw = a g + (1 - a) mean(g) + (sum(g q) - a sum(g z)) (w - m) / ((n - 1) s)

A matrix of equal numbers, such as a zero-initialised B, has s = 0, so v = m = w whatever the code.
Its gradient is that of the identity (dL/dw = g). The formula's mean(g) would keep all its numbers
equal in every step; with g, quantising begins after the first step.

Stored form: codes of `bits` bits, the first number in the lowest bits of the first byte, spare bits
0, and m and s as float32. Decoding gives the weight in use, bit for bit.
"""
