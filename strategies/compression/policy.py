"""Which codec a tensor travels with: a choice by role and size, apart from the codecs themselves.

(The split is hivemind's, `compression/adaptive.py`.) A stage names a policy by a short text, which
is also its tag on the wire, so both ends make the same choice and nothing about it is sent:

| text | meaning |
|---|---|
| `sign1` | every tensor with that codec |
| `auto` | `AUTO` below: one bit for what is large and trained, float32 for the rest |
| `auto,factor_b=nf4` | the same but for one role |
| `sign1,small=fp32,below=256` | tensors of fewer than 256 numbers with another codec |

Imports nothing heavy: a plan is validated with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fedmore.experts.errors import WireError
from fedmore.experts.plugins import Plugin, Table

TAGS = ("fp32", "bf16", "int8", "nf4", "sign1", "bitdelta", "bits1", "bits2", "bits4")
"""Tags of the built-in codecs; `codec.CODECS` has their implementations."""

NAMES = Table("codec", TAGS, reserved=("auto",))
"""Tags of all codecs, those of plugins among them."""

WEIGHT_TAGS = {1: "bits1", 2: "bits2", 4: "bits4"}
"""By number of bits, the codec of weights that are trained with that many, and of nothing else."""

ROLES = ("factor_a", "factor_b", "matrix", "embedding", "router", "norm")
"""What a tensor can be: LoRA's A or B, a full-size change, a mean embedding, a router row, norms
and scalars."""


@dataclass(frozen=True)
class Policy:
    """`tags`: each role's codec; `small`: the codec of what has fewer than `below` numbers."""

    tags: Mapping[str, str]
    small: str = "fp32"
    below: int = 0

    def tag(self, role: str, count: int) -> str:
        """The codec's tag for a tensor of `count` numbers."""
        return self.small if count < self.below else self.tags[role]


FINE = ("fp32", "bf16")
"""Codecs with which whole factors travel; any other is too coarse for them, and is for changes."""

AUTO = Policy(
    tags={
        "factor_a": "sign1",
        "factor_b": "sign1",
        "matrix": "sign1",
        "embedding": "fp32",  # sent once, no later round would make up for what it lost
        "router": "fp32",
        "norm": "fp32",
    },
    below=256,  # less than one block of sign1: under a kilobyte, with one scale for all of it
)


def for_changes(text: str) -> bool:
    """Whether `text` names a policy that can carry changes; raises `WireError` for no policy."""
    policy = policy_of(text)
    return not {*policy.tags.values(), policy.small} & set(WEIGHT_TAGS.values())


def policy_of(text: str) -> Policy:
    """The policy that `text` names; raises `WireError` for a codec, role or key that is unknown."""
    name, *changes = text.split(",")
    policy = AUTO if name == "auto" else Policy(dict.fromkeys(ROLES, _known(name, text)))
    for change in changes:
        key, _, value = change.partition("=")
        policy = _changed(policy, key, value, text)
    return policy


def tags_of(text: str) -> set[str]:
    """Tags of all codecs that the policy that `text` names may take; raises `WireError`."""
    policy = policy_of(text)
    return {*policy.tags.values(), *([policy.small] if policy.below else ())}


def plugins_of(text: str) -> list[Plugin]:
    """The plugins whose codecs the policy that `text` names may take; raises `WireError`."""
    return NAMES.added(tags_of(text))


def is_coarse(text: str) -> bool:
    """Whether the policy that `text` names takes a codec for factors that is none of `FINE`."""
    policy = policy_of(text)
    taken = {policy.tags["factor_a"], policy.tags["factor_b"]}
    return not taken | ({policy.small} if policy.below else set()) <= set(FINE)


def _changed(policy: Policy, key: str, value: str, text: str) -> Policy:
    if key == "below":
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            raise WireError(f"codec {text!r}: below={value} is not a number of numbers")
        return replace(policy, below=int(value))
    if key == "small":
        return replace(policy, small=_known(value, text))
    if key not in ROLES:
        known = ", ".join([*ROLES, "small", "below"])
        raise WireError(f"codec {text!r}: nothing is called {key!r}; there are {known}")
    return replace(policy, tags={**policy.tags, key: _known(value, text)})


def _known(tag: str, text: str) -> str:
    if tag not in NAMES:
        where = "" if tag == text else f" in {text!r}"
        raise WireError(f"unknown codec {tag!r}{where}; known are {NAMES.listed()}")
    return tag


def factor_roles(count: int) -> Sequence[str]:
    """Roles of `count` tensors in the wire order of `factors.tensors`: A, B, A, B and so on."""
    return [("factor_a", "factor_b")[i % 2] for i in range(count)]
