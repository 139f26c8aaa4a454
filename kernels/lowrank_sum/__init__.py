"""lowrank_sum: the exact weighted sum of low-rank products, kept as factors.

``D = sum_k w_k B_k A_k`` for ``B_k [m, r_k]``, ``A_k [r_k, n]`` of different rank: QR of the
stacked factors and an SVD of the small core give D's singular value decomposition at cost
``O((m + n) R^2)``, ``R = sum r_k``; no m x n matrix is formed. The sum is the target of FLoRA
(arXiv 2409.05976) and FlexLoRA (arXiv 2402.11505).

A term may be a full-size matrix D_k [m, n] instead of a product. Such a sum is dense: low-rank
terms are added into it, it is not decomposed, and no rank limits it.

Form: `cpu` is plain torch and serves NVIDIA GPUs too, since QR and SVD are cuSOLVER's there.
`aggregate_layers` handles all layers of a model at once. `bounded` is for many terms: its
memory and time are bounded by the rank that is kept, and it says what the cut costs.
"""
