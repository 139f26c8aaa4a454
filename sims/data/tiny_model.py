"""Makes a base with about 0.3M random weights, for tests and the scenario `smoke`.

Its tokenizer has one token per byte, so any text can be encoded.
"""

from pathlib import Path
from typing import Any

END = "<|end|>"


def make_tiny_base(directory: Path, seed: int = 0, layers: int = 6) -> Path:
    """Write a small Llama and its tokenizer to `directory`; the same seed gives the same bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from fedmore.experts.base.model import quiet

    quiet()
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def byte_tokenizer() -> Any:
    """A tokenizer of 256 byte tokens and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(letters)} | {END: len(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped: Any = PreTrainedTokenizerFast
    return wrapped(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
