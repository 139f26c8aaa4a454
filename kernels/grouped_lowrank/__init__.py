"""Routed products with low-rank factors, which `lora_mix` and `moe_ffn` share."""
