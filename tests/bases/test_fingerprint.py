"""The fingerprint: equal for equal bases however they are saved, another for every other base."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edited_bases import change_weights
from safetensors.torch import load_file, save_file

from fedmore.experts.base.fingerprint import explain
from fedmore.experts.base.model import fingerprint_of, load_base
from fedmore.experts.errors import BaseError

WEIGHTS = "model.safetensors"
Change = Callable[[Path], None]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


def edit(folder: Path, file: str, **values: Any) -> None:
    table = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(table | values))


def shard(folder: Path, parts: int = 3) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = {name: f"model-{i % parts}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        part = {name: tensors[name] for name, place in names.items() if place == file}
        save_file(part, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def resave(folder: Path) -> None:
    """By transformers, in shards of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shutil.rmtree(folder)
    model.save_pretrained(folder, max_shard_size="200KB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2


def consolidated(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "consolidated.safetensors")


def renumbered(folder: Path) -> None:
    """The order of the tensors in the file, and what else its head says."""
    tensors = load_file(folder / WEIGHTS)
    save_file(dict(reversed(tensors.items())), folder / WEIGHTS, {"format": "pt", "by": "another"})


SAME: dict[str, Change] = {
    "other shards": shard,
    "saved anew in shards": resave,
    "a consolidated file beside them": consolidated,
    "another order in the file": renumbered,
    "a readme": lambda f: (f / "README.md").write_text("other") and None,
    "another version of transformers": lambda f: edit(f, "config.json", transformers_version="5.1"),
    "another dtype to load in": lambda f: edit(f, "config.json", dtype="bfloat16"),
    "generation settings that are not used": lambda f: edit(
        f, "generation_config.json", num_return_sequences=5, cache_implementation="static"
    ),
}


def flip(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.3.mlp.up_proj.weight"][0, 0] += 1e-6


def rename(tensors: dict[str, torch.Tensor]) -> None:
    one, two = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    tensors[one], tensors[two] = tensors[two], tensors[one]


def retype(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].double()


def tokens(folder: Path) -> None:
    """Two tokens of the tokenizer change places."""
    table = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(table))


ROPE = {"rope_theta": 5e5, "rope_type": "default"}
OTHER: dict[str, Change] = {
    "one number": lambda f: change_weights(f, flip),
    "two tensors under each other's name": lambda f: change_weights(f, rename),
    "the dtype of a tensor": lambda f: change_weights(f, retype),
    "rope": lambda f: edit(f, "config.json", rope_parameters=ROPE),
    "eps": lambda f: edit(f, "config.json", rms_norm_eps=1e-5),
    "activation": lambda f: edit(f, "config.json", hidden_act="gelu"),
    "tokenizer": tokens,
    "end token": lambda f: edit(f, "tokenizer_config.json", eos_token="a", pad_token="a"),
    "chat template": lambda f: (f / "chat_template.jinja").write_text("{{ messages }}") and None,
    "end of a text": lambda f: edit(f, "generation_config.json", eos_token_id=[256, 7]),
    "penalty": lambda f: edit(f, "generation_config.json", repetition_penalty=1.3),
}  # fmt: skip


@pytest.mark.parametrize("change", SAME)
def test_the_same_base_has_the_same_fingerprint(tiny: Path, copy: Path, change: str) -> None:
    SAME[change](copy)
    assert fingerprint_of(str(copy)) == fingerprint_of(str(tiny))


@pytest.mark.parametrize("change", OTHER)
def test_another_base_has_another_fingerprint(tiny: Path, copy: Path, change: str) -> None:
    OTHER[change](copy)
    assert fingerprint_of(str(copy)) != fingerprint_of(str(tiny))
    assert fingerprint_of(str(copy)).startswith("v2:")


def test_decoys_beside_a_pickle_have_no_fingerprint(copy: Path) -> None:
    """True safetensors under names that are not loaded, beside zeros that would be."""
    (copy / WEIGHTS).rename(copy / "decoy.safetensors")
    torch.save({}, copy / "pytorch_model.bin")
    for look in (fingerprint_of, load_base):
        with pytest.raises(BaseError, match=r"no model\.safetensors.*only \*\.safetensors files"):
            look(str(copy))


def test_a_decoy_index_beside_the_file_that_is_loaded_changes_nothing(
    tiny: Path, copy: Path
) -> None:
    change_weights(copy, flip)
    shutil.copy(tiny / WEIGHTS, copy / "model-0.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(tiny / WEIGHTS), "model-0.safetensors")}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fingerprint_of(str(copy)) != fingerprint_of(str(tiny))


def test_what_is_fingerprinted_is_what_is_loaded(copy: Path) -> None:
    before = load_base(str(copy), "float32").fingerprint
    folder = copy.with_name("other")
    copy.rename(folder)
    change_weights(folder, flip)
    loaded = load_base(str(folder), "float32")
    number = loaded.model.state_dict()["model.layers.3.mlp.up_proj.weight"][0, 0]
    assert number == load_file(folder / WEIGHTS)["model.layers.3.mlp.up_proj.weight"][0, 0]
    assert loaded.fingerprint == fingerprint_of(str(folder)) != before


def test_a_fingerprint_of_an_older_version_says_what_to_do() -> None:
    assert "another version of fedmore" in explain("v2:abc", "sha256:abc")
    assert "coordinator init" in explain("v2:abc", "sha256:abc")
    assert "configuration and tokenizer have to be the same" in explain("v2:abc", "v2:abd")
