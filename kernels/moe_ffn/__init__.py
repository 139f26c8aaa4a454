"""moe_ffn: the FlexMoRE mixture of SwiGLU experts in the anchor form.

``y = F_pub(x) + sum_i g_i (F_i(x) - F_pub(x))`` where every projection of expert i is
``W_pub + B A`` (FlexMoRE, arXiv 2602.08818). With
``h_i = act((Wg + Bg Ag) x) * ((Wu + Bu Au) x)`` this equals
``Wd (sum_i g_i h_i) + sum_i g_i Bd_i (Ad_i h_i)``. Both sums include the public expert, with weight
``1 - sum g_i`` and no low-rank terms. So the base's three products are computed once per token,
however many experts are active.

A projection of an expert may also change by a full-size matrix, ``W_pub + D``. Such an expert takes
``Wg x + Dg x`` and adds ``g_i Dd_i h_i`` in torch (`torch_fallback`), beside the loops or kernels
that compute the low-rank ones.

Shapes: T tokens, D model width, H hidden width, E experts, R rank (its own for every matrix).
"""
