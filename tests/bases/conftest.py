"""Tiny bases of many families, made on the spot with random weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

SMALL: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}
MOE: dict[str, Any] = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip
MLA: dict[str, Any] = {
    "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_group": 1, "topk_group": 1,
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "apertus": {"hidden_act": "xielu"},
    "bloom": {"n_layer": 3, "n_head": 4},
    "deepseek_v3": MOE | MLA | {"first_k_dense_replace": 1},
    "gemma3_text": {"sliding_window": 16},
    "glm4_moe": MOE | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "gpt2": {"n_inner": 48},
    "gpt_neo": {
        "num_layers": 3, "num_heads": 4, "attention_types": [[["global", "local", "global"], 1]],
    },
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mamba": {},
    "gemma3n_text": {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 257,
                     "num_kv_shared_layers": 0, "intermediate_size": 48, "laurel_rank": 4,
                     "activation_sparsity_pattern": [0.9, 0.0, 0.0]},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention", "linear_attention"],
                     "linear_num_key_heads": 2, "linear_num_value_heads": 4,
                     "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "recurrent_gemma": {"lru_width": 32, "attention_window_size": 16},
    "mixtral": MOE, "olmoe": MOE, "qwen2_moe": MOE, "qwen3_moe": MOE, "gpt_oss": MOE,
    "granitemoe": MOE, "phimoe": MOE,
}  # fmt: skip


def small_config(family: str) -> Any:
    """A configuration of the family with a few small blocks."""
    from transformers import AutoConfig

    if family in ("gemma3", "qwen2_5_vl"):
        config = AutoConfig.for_model(family)
        text = config.text_config.to_dict()
        text |= {k: v for k, v in SMALL.items() if k != "head_dim" or "head_dim" in text}
        text["layer_types"] = ["full_attention"] * 3
        vision = config.vision_config.to_dict() | {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "image_size": 28,
            "num_attention_heads": 2, "patch_size": 14, "depth": 2, "num_heads": 2,
            "out_hidden_size": 32, "fullatt_block_indexes": [1],
        }  # fmt: skip
        extra = {"mm_tokens_per_image": 4} if family == "gemma3" else {}
        return AutoConfig.for_model(family, text_config=text, vision_config=vision, **extra)
    return AutoConfig.for_model(family, **(SMALL | SETTINGS.get(family, {})))


def make_base(directory: Path, family: str) -> Path:
    """Write a base of the family, with a tokenizer of one token per byte."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    from fedmore.sims.data.tiny_model import byte_tokenizer

    config = small_config(family)
    auto: Any = AutoModelForCausalLM if family != "qwen2_5_vl" else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Call it with a family: the folder of a base of it, made once."""
    made: dict[str, Path] = {}

    def base(family: str) -> Path:
        if family not in made:
            made[family] = make_base(tmp_path_factory.mktemp(family), family)
        return made[family]

    return base
