"""Tokenizers of every kind that bases have, made on the spot by `tokenizers`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = (
    "The parties agree that this licence grants no warranty of any kind.",
    "O usuario pode cambiar a configuración da súa páxina; é doado.",
    "Emoji 🙂 and 漢字 are several bytes each, é is two.",
    "def add(left, right):\n    return left + right\n",
    "  two spaces before, and two behind  ",
)


@dataclass(frozen=True)
class Kind:
    """A tokenizer and what is known of it: what it puts before a text, and what the rule opens."""

    name: str
    make: Callable[[], Any]
    prefix: str
    opener: str


def wrapped(tokenizer: Tokenizer, **tokens: str) -> Any:
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=tokenizer, **tokens)


def byte_level(specials: list[str], vocabulary: int = 400) -> Tokenizer:
    """As of GPT-2, Qwen and SmolLM2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def spaced(specials: list[str]) -> Tokenizer:
    """As of Gemma and Llama: spaces are a letter, and what is no token is bytes."""
    learning = Tokenizer(models.BPE())
    learning.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=150, limit_alphabet=40, show_progress=False)
    learning.train_from_iterator(TEXTS[:1] * 3, trainer)
    learned = json.loads(learning.to_str())["model"]
    made = [f"<0x{byte:02X}>" for byte in range(256)]
    known = ["<unk>", *specials, *made, *learned["vocab"]]
    model = models.BPE(
        vocab={token: number for number, token in enumerate(known)},
        merges=[tuple(pair) for pair in learned["merges"]],
        byte_fallback=True,
        fuse_unk=True,
        unk_token="<unk>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.add_special_tokens(specials)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def putting(tokenizer: Tokenizer, form: str, *specials: str) -> Tokenizer:
    """The same with a template of its own."""
    known = [(token, tokenizer.token_to_id(token)) for token in specials]
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=known)
    return tokenizer


def bare() -> Any:
    """No token but those of text."""
    return wrapped(byte_level([]))


def ended() -> Any:
    """One token begins and ends, and there is none to pad with."""
    end = "<|endoftext|>"
    return wrapped(byte_level([end]), bos_token=end, eos_token=end)


def chatting() -> Any:
    """<bos> opens a turn, and another token a document."""
    specials = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
    tokenizer = wrapped(byte_level(specials), bos_token=specials[0], eos_token=specials[1])
    tokenizer.add_tokens([AddedToken(specials[2], special=True)], special_tokens=True)
    return tokenizer


def beginning() -> Any:
    """It puts <bos> itself."""
    specials = ["<pad>", "<eos>", "<bos>"]
    tokenizer = putting(spaced(specials), "<bos> $A", "<bos>")
    return wrapped(tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def embraced() -> Any:
    """It puts one token before and another behind."""
    tokenizer = putting(byte_level(["<s>", "</s>"]), "<s> $A </s>", "<s>", "</s>")
    return wrapped(tokenizer, bos_token="<s>", eos_token="</s>")


def unnamed() -> Any:
    """It puts a token before that is neither <bos> nor <eos>."""
    return wrapped(putting(byte_level(["[CLS]"]), "[CLS] $A", "[CLS]"))


def unbegun() -> Any:
    """Only an end, and bytes for what is no token."""
    return wrapped(spaced(["</s>"]), eos_token="</s>")


KINDS = (
    Kind("bare", bare, "", "none"),
    Kind("ended", ended, "", "<|endoftext|>"),
    Kind("chatting", chatting, "", "<|im_start|>"),
    Kind("beginning", beginning, "<bos>", "<bos>"),
    Kind("embraced", embraced, "<s>", "<s>"),
    Kind("unnamed", unnamed, "[CLS]", "[CLS]"),
    Kind("unbegun", unbegun, "", "</s>"),
)


def make_base(folder: Path, tokenizer: Any) -> Path:
    """A small random Llama under a tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
