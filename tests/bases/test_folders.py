"""Folders that are no good base: each refused in one line by all that look at a base."""

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from edited_bases import change_weights
from safetensors.torch import load_file
from thinning import rarer_slow

from fedmore.client.hardware.preflight import preflight
from fedmore.coordinator.folder.create import create, new_config
from fedmore.experts.base.model import load_base, shapes_of
from fedmore.experts.errors import BaseError
from fedmore.experts.factors import initial
from fedmore.experts.mixture.generation import Settings, ends, generate
from fedmore.experts.mixture.model import assemble
from fedmore.experts.routers.spec import RouterSpec
from fedmore.experts.routers.static import UniformRouter
from fedmore.experts.spec import ExpertSpec
from fedmore.sims.data.tiny_model import byte_tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LAYER = "model.layers.2.mlp.up_proj.weight"


@pytest.fixture
def folder(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "base"))


def edit(folder: Path, file: str, **values: Any) -> None:
    table = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(table | values))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder, change)


def cut(size: int) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[:size])

    return do


def lost_shard(folder: Path) -> None:
    names = dict.fromkeys(load_file(folder / WEIGHTS), "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    (folder / WEIGHTS).unlink()


def shard_elsewhere(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent / "x.safetensors")
    lost_shard(folder)
    text = (folder / INDEX).read_text().replace("model-1.safetensors", "../x.safetensors")
    (folder / INDEX).write_text(text)


def bare_tokenizer(folder: Path) -> None:
    """Neither a start nor an end token."""
    edit(folder, "tokenizer_config.json", eos_token=None, pad_token=None)
    table = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(table))


def large_tokenizer(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<extra-{i}>" for i in range(5)])
    tokenizer.save_pretrained(folder)


def nan(value: float) -> Callable[[Path], None]:
    return weights(lambda t: t[LAYER].__setitem__((1, 1), value))


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edit(folder, "config.json", **values)


def write(file: str, text: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / file).write_text(text)

    return do


def remove(*files: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return do


def adapter(folder: Path) -> None:
    edit(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="x")


def distributed(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "shard-00001-model-00001-of-00001.safetensors")


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (remove("config.json"), r"config\.json cannot be read"),
    "a config that is a list": (write("config.json", "[]"), "not a JSON object"),
    "a config without end": (write("config.json", '{"a":' * 9999), "cannot be read"),
    "cut in the head": (cut(100), "damaged or cut short.*fetch it again"),
    "cut to nothing": (cut(3), "cut short.*fetch it again"),
    "cut in the numbers": (cut(-1000), "damaged or cut short.*fetch it again"),
    "a tensor missing": (weights(lambda t: t.pop(LAYER)), f"1 tensors are missing.*{LAYER}"),
    "a tensor of another shape": (
        weights(lambda t: t.__setitem__(LAYER, torch.zeros(2, 3))),
        "of another shape than config",
    ),
    "a shard missing": (lost_shard, "names 'model-1.safetensors', which is not there"),
    "a shard elsewhere": (shard_elsewhere, r"names '\.\./x\.safetensors', which is not there"),
    "NaN": (nan(float("nan")), f"{LAYER} in .* holds NaN or infinity.*another copy"),
    "infinity": (nan(float("inf")), f"{LAYER} in .* holds NaN or infinity.*another copy"),
    "an adapter": (adapter, r"adapter_config\.json is of a PEFT adapter.*merge it"),
    "other weights": (config(transformers_weights="x.safetensors"), "transformers_weights"),
    "a distributed checkpoint": (distributed, "distributed checkpoint"),
    "attention from the hub": (
        config(attn_implementation="evil/kernel"),
        "fetch code from the hub",
    ),
    "attention from the hub, inside": (
        config(sub={"_attn_implementation": "evil/kernel"}),
        "fetch code from the hub",
    ),
    "quantised": (config(quantization_config={"quant_method": "gptq"}), r"already \(gptq\)"),
    "no bos, no eos": (bare_tokenizer, "neither a start nor an end token; set eos_token"),
    "a tokenizer that is too large": (large_tokenizer, "goes up to token 261.* 257 embeddings"),
    "no tokenizer": (
        remove("tokenizer.json", "tokenizer_config.json"),
        "its tokenizer cannot be loaded",
    ),
    "a damaged tokenizer": (write("tokenizer.json", "{"), "its tokenizer cannot be loaded"),
    "an unknown family": (config(model_type="hal9000"), "cannot be read"),
}


def init(base: Path, directory: Path) -> None:
    create(directory, new_config(name="demo", base=str(base), domains=("legal",)))


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_folder_is_refused_in_one_line_everywhere(
    folder: Path, tmp_path: Path, fault: str
) -> None:
    spoil, says = BAD[fault]
    spoil(folder)
    for look in looks(folder, tmp_path / "federation"):
        with pytest.raises(BaseError, match=says) as caught:
            look()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "federation").exists()


def test_a_good_folder_is_taken_everywhere(folder: Path, tmp_path: Path) -> None:
    init(folder, tmp_path / "federation")
    assert preflight(str(folder), cpu=True).base is not None
    load_base(str(folder), "float32")


CODE = """
import pathlib
pathlib.Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Evil(LlamaConfig): model_type = "evil"
class EvilModel(LlamaForCausalLM): config_class = Evil
class EvilTokenizer(PreTrainedTokenizerFast): pass
"""
MAPS = {
    "config": {"AutoConfig": "evil.Evil"},
    "model": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel"},
    "hub": {"AutoConfig": "other/repo--evil.Evil"},
}


def looks(folder: Path, directory: Path) -> list[Callable[[], Any]]:
    return [
        lambda: init(folder, directory),
        lambda: preflight(str(folder), cpu=True),
        lambda: load_base(str(folder), "float32"),
    ]


@pytest.fixture
def mark(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the folder's code writes when it runs; so does a question, answered `y`."""
    file = tmp_path / "ran"
    (folder / "evil.py").write_text(CODE.format(mark=str(file)))

    def asked(*_: object) -> str:
        file.write_text("asked")
        return "y"

    monkeypatch.setattr("builtins.input", asked)
    return file


@pytest.mark.parametrize("part", MAPS)
def test_code_of_an_unknown_family_is_refused_and_nobody_is_asked(
    folder: Path, tmp_path: Path, mark: Path, part: str
) -> None:
    edit(folder, "config.json", auto_map=MAPS[part], model_type="evil")
    for look in looks(folder, tmp_path / "federation"):
        with pytest.raises(BaseError, match="code of its own, which is never run") as caught:
            look()
        assert "\n" not in str(caught.value)
    assert not mark.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("part", rarer_slow(MAPS, [*MAPS][-1:]))
def test_code_beside_a_known_family_is_left_alone(
    folder: Path, tmp_path: Path, mark: Path, part: str
) -> None:
    edit(folder, "config.json", auto_map=MAPS[part])
    for look in looks(folder, tmp_path / "federation"):
        look()
    assert not mark.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("known", ["EvilTokenizer", "PreTrainedTokenizerFast"])
def test_code_of_a_tokenizer_is_never_run(
    folder: Path, tmp_path: Path, mark: Path, known: str
) -> None:
    places = {"AutoTokenizer": ["evil.EvilTokenizer", None]}
    edit(folder, "tokenizer_config.json", auto_map=places, tokenizer_class=known)
    for look in looks(folder, tmp_path / "federation"):
        with suppress(BaseError):  # whether a class of that name is known or not
            look()
    assert not mark.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 5},
        {"num_return_sequences": 3, "num_beams": 4},
        {"stop_strings": ["x"]},
        {"cache_implementation": "static", "guidance_scale": 2.0, "prompt_lookup_num_tokens": 3},
        {"min_length": 500, "max_time": 0.0, "watermarking_config": {"bias": 2.0}},
        {"return_dict_in_generate": True, "output_scores": True, "renormalize_logits": True},
        {"constraints": [1], "force_words_ids": [[5]], "forced_bos_token_id": 7},
    ],
    ids="+".join,
)
def test_generation_settings_of_a_base_cannot_break_generation(
    folder: Path, settings: dict[str, Any]
) -> None:
    edit(folder, "generation_config.json", eos_token_id=[256], **settings)
    base = load_base(str(folder), "float32")
    router = UniformRouter(RouterSpec("uniform", 1, 64))
    sites = ExpertSpec("e", "expert", "e", 2).sites(shapes_of(base.model))
    mixture = assemble(
        base.model, {"e": initial(ExpertSpec("e", "expert", "e", 2), sites, 0)}, router
    )
    made = generate(mixture, base.tokenizer, [5, 6], Settings(max_tokens=4))
    assert made.ids[:2] == (5, 6)
    assert len(made.ids) <= 6
    assert ends(base.model) == {256}
