"""LoRA adapters of PEFT as changes of the base: exact, or refused with the reason."""

import json

import peft
import pytest
import torch

from fedmore.experts.base.model import load_base
from fedmore.experts.conversion.peft_adapter import adapter_change, is_adapter
from fedmore.experts.errors import ConfigError
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.mixture.model import assemble
from fedmore.experts.routers.base import Router
from fedmore.experts.routers.spec import RouterSpec

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of PEFT, as it makes adapters

FFN = ["gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def adapter(tiny, tmp_path):
    """Call it with PEFT's settings: the tiny of an adapter, and the model with it."""

    def make(kind=peft.LoraConfig, **settings):
        model = load_base.__wrapped__(str(tiny), "float32").model
        made = peft.get_peft_model(model, kind(**settings))
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter.normal_(0, 0.2)
        made.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", made.eval()

    return make


class Whole(Router):
    """The one expert alone, for every token."""

    def forward(self, x_BTD, slot, memory):
        return torch.tensor([0.0, 1.0]).expand(*x_BTD.shape[:2], -1)


SETTINGS = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": FFN},
    "attention too": {"r": 2, "lora_alpha": 3, "target_modules": [*FFN, "q_proj", "v_proj"]},
    "rslora": {"r": 9, "lora_alpha": 6, "use_rslora": True, "target_modules": FFN},
    "patterns": {
        "r": 4, "lora_alpha": 4, "target_modules": FFN,
        "rank_pattern": {"down_proj": 7}, "alpha_pattern": {"layers.2.mlp.up_proj": 12},
    },
    "some layers": {"r": 3, "target_modules": FFN, "layers_to_transform": [0, 5]},
    "one matrix of each FFN": {"r": 3, "target_modules": ["down_proj"]},
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_adapter_computes_what_it_does_in_peft(adapter, tiny, base, shapes, logits, settings):
    where, model = adapter(**settings)
    assert is_adapter(where)
    assert not is_adapter(tiny)
    found = adapter_change(str(tiny), where, shapes, None)
    ids = torch.randint(0, 256, (2, 24))
    wanted = logits(model, ids)
    torch.testing.assert_close(
        logits(with_change(base.model, found.factors), ids), wanted, atol=1e-4, rtol=1e-4
    )
    assert (wanted - logits(base.model, ids)).abs().max() > 0.05
    assert found.error == 0
    assert found.is_ffn_alone == ("q_proj" not in settings["target_modules"])
    mixture = assemble(base.model, {"new": found.factors}, Whole(RouterSpec("uniform", 1, 64)))
    torch.testing.assert_close(logits(mixture.model, ids), wanted, atol=1e-4, rtol=1e-4)


def test_an_adapter_can_be_cut(adapter, tiny, shapes):
    where, _ = adapter(r=8, target_modules=FFN)
    found = adapter_change(str(tiny), where, shapes, 3)
    assert found.rank == 3
    assert 0.1 < found.error < 1
    assert adapter_change(str(tiny), where, shapes, 8).error == 0


REFUSED = {
    "dora": ({"r": 2, "use_dora": True, "target_modules": FFN}, "made with use_dora"),
    "bias": ({"r": 2, "bias": "all", "target_modules": FFN}, "trains biases"),
    "saved modules": (
        {"r": 2, "target_modules": FFN, "modules_to_save": ["embed_tokens"]},
        "made with modules_to_save",
    ),
    "head": ({"r": 2, "target_modules": ["lm_head"]}, "changes lm_head"),
    "ia3": (
        {"kind": peft.IA3Config, "target_modules": FFN, "feedforward_modules": FFN},
        "of type IA3",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_what_an_expert_cannot_hold_is_refused(adapter, tiny, shapes, settings, message):
    where, _ = adapter(**settings)
    with pytest.raises(ConfigError, match=message):
        adapter_change(str(tiny), where, shapes, None)


def test_damaged_adapters_are_refused(adapter, tiny, shapes):
    where, _ = adapter(r=2, target_modules=FFN)
    config = where / "adapter_config.json"
    table = json.loads(config.read_text())
    config.write_text(json.dumps(table | {"r": 3}))
    with pytest.raises(ConfigError, match=r"no adapter of .*size mismatch|no adapter of "):
        adapter_change(str(tiny), where, shapes, None)
    config.write_text("{")
    with pytest.raises(ConfigError, match="no adapter of"):
        adapter_change(str(tiny), where, shapes, None)
    (where / "adapter_model.safetensors").rename(where / "adapter_model.bin")
    with pytest.raises(ConfigError, match="only safetensors files are read"):
        adapter_change(str(tiny), where, shapes, None)
