"""The blocks of a base, and the linear layers in them that can be changed.

Names differ between families, so blocks are found by their place in the model. An FFN is accepted
only after a trial shows that it computes the formula that a mixture would compute.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedmore.experts.base.ffn import behaves, is_linear, layout_of, shape_of
from fedmore.experts.spec import FFN_PARENTS, Shapes

ATTENTION_PARENTS = ("self_attn", "attn", "attention", "self_attention")
INNER = "the inner experts would need changes of their own"
FORM = "that form would have to be added to experts/base/ffn.py"
MIXER = "a change of what mixes the tokens there would have to be added"
EXPERTS = ("experts", "router", "shared_experts", "shared_expert")
_PARTS: weakref.WeakKeyDictionary[nn.Module, "Parts"] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Parts:
    """The linear layers of every block's FFN and attention that can be changed.

    `shapes` lists them in the model's order. `no_ffn` and `no_attention` give the reason if the FFN
    or the attention cannot be changed; otherwise they are empty.
    """

    blocks: int
    shapes: Shapes
    no_ffn: str
    no_attention: str


class Unsuitable(Exception):  # noqa: N818 - it never reaches a person as an exception
    """A part of a block cannot be changed; says why, and what support would have to be added."""

    def __init__(self, why: str, needed: str) -> None:
        super().__init__(why)
        self.needed = needed


def blocks_of(model: Any) -> tuple[str, nn.ModuleList]:
    """Path and list of the decoder's blocks, not those of a vision tower.

    Empty if there are none.
    """
    decoder = model.get_decoder()
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for path, module in model.named_modules():
        parent = path.rpartition(".")[0]
        is_list = isinstance(module, nn.ModuleList) and len(module) == count
        if is_list and model.get_submodule(parent) is decoder:
            return path, module
    return "", nn.ModuleList()


def shapes_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """`{module path: (out, in)}` of every linear layer of the blocks that can be changed."""
    return dict(parts_of(model).shapes)


def parts_of(model: Any) -> Parts:
    """Find the layers of a causal LM that can be changed; the model may be on the meta device.

    The result is cached per model.
    """
    if model not in _PARTS:
        _PARTS[model] = _find(model)
    return _PARTS[model]


def _find(model: Any) -> Parts:
    path, blocks = blocks_of(model)
    if not len(blocks):
        why = "it has no list of decoder blocks, and only decoders can be trained"
        return Parts(0, {}, why, why)
    ffn, no_ffn = _everywhere(blocks, _ffn_of)
    attention, no_attention = _everywhere(blocks, _attention_of)
    chosen = {f"{path}.{each}" for each in (*ffn, *attention)}
    shapes = {name: shape_of(module) for name, module in model.named_modules() if name in chosen}
    return Parts(len(blocks), shapes, no_ffn, no_attention)


def _everywhere(
    blocks: nn.ModuleList, find: Callable[[nn.Module], list[str]]
) -> tuple[list[str], str]:
    """Return the paths in a block if every block has them; otherwise no paths and the reason."""
    paths: list[str] = []
    found: list[Unsuitable] = []
    for index, block in enumerate(blocks):
        try:
            paths += [f"{index}.{each}" for each in find(block)]
        except Unsuitable as error:
            found.append(error)
    if found:
        return [], f"{found[0]} ({len(found)} of {len(blocks)} blocks); {found[0].needed}"
    return paths, ""


def _ffn_of(block: nn.Module) -> list[str]:
    children = dict(block.named_children())
    parent = next((name for name in FFN_PARENTS if name in children), None)
    if parent is None:
        _refuse_without_ffn(children)
    if any(name in EXPERTS or "moe" in name for name in children):
        raise Unsuitable("its blocks have a mixture of experts beside the FFN", INNER)
    ffn = children[str(parent)]
    kind, layout = type(ffn).__name__, layout_of(ffn)
    if any(hasattr(ffn, name) for name in EXPERTS):
        raise Unsuitable(f"its {kind} is a mixture of experts already", INNER)
    if layout is None:
        inside = ", ".join(name for name, _ in ffn.named_children())
        raise Unsuitable(f"its {kind} ({inside}) is of no known form", FORM)
    if not behaves(ffn, layout):
        names = ", ".join(layout.names)
        raise Unsuitable(f"its {kind} computes more than {names} and the activation", FORM)
    return [f"{parent}.{name}" for name in layout.names]


def _refuse_without_ffn(children: dict[str, nn.Module]) -> None:
    experts = [type(child).__name__ for name, child in children.items() if "moe" in name]
    if experts:
        raise Unsuitable(f"its {experts[0]} is a mixture of experts already", INNER)
    named = ", ".join(children)
    raise Unsuitable(f"its blocks ({named}) have no FFN that is a module of its own", FORM)


def _attention_of(block: nn.Module) -> list[str]:
    children = dict(block.named_children())
    parent = next((name for name in ATTENTION_PARENTS if name in children), None)
    if parent is None:
        raise Unsuitable(f"its blocks ({', '.join(children)}) have no attention", MIXER)
    module: Any = children[parent]
    if isinstance(getattr(module, "attention", None), nn.Module):  # GPT-Neo nests it once more
        parent, module = f"{parent}.attention", module.attention
    found = [name for name, child in module.named_children() if is_linear(child)]
    if not found:
        raise Unsuitable(f"its {type(module).__name__} has no linear layers of its own", MIXER)
    return [f"{parent}.{name}" for name in found]
