"""lora_mix: ``y += sum_e w_e B_e (A_e x)`` for tokens routed to adapters of different rank.

Shapes: T tokens, D in, O out, E adapters, R rank (its own for every adapter).
An adapter may also be a full-size matrix D [O, D] in place of the product; it is computed in torch.
"""
