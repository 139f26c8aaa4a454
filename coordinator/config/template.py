"""A configuration as a commented `federation.toml`; `parse_config` reads it back to the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.strategies.settings import descriptions
from fedmore.strategies.stages.base import Stage

HEAD = """\
The plan of a federation. Unknown keys and wrong types are errors, so nothing here is ignored.
`coordinator start` reads it once, at its start."""

COMMENTS: Mapping[str, str] = {
    "federation": "Who and what.",
    "federation.name": "shown to clients, and part of their state folder",
    "federation.seed": "of everything random",
    "federation.clients": "the plan begins when so many are connected",
    "federation.domains": "what may be trained as an expert: client join --domain",
    "federation.languages": "what may be trained as an adapter: client join --language",
    "federation.app": "module:object of another's Flower ServerApp; empty for the stages below",
    "federation.run_config": "and what it is given as its run config",
    "base": "The frozen public model, the same at every client.",
    "base.model": "a folder, or a name on the Hugging Face hub",
    "base.fingerprint": "digest of its weights; a client whose base differs is refused",
    "base.dtype": "auto, float32 or bfloat16",
    "base.quantization": "none, or nf4 (4 bits, by bitsandbytes)",
    "base.opener": "what opens a document: a token that the tokenizer has, or none; chosen by init",
    "base.open_windows": "whether it also opens windows that begin inside a document",
    "server": "Where the coordinator listens.",
    "server.host": "0.0.0.0 for every network",
    "server.port": "0 takes a free one",
    "server.advertise": "the host that invites name, and that the certificate is for",
    "server.heartbeat_s": "a client reports this often",
    "server.heartbeat_timeout_s": "and counts as gone after this silence",
    "server.rejoin_timeout_s": "after a restart, how long a plan waits for all of its clients",
    "server.upload_bytes": "of a client that no answer names yet; a full-size expert is large",
    "server.content_bytes": "of an answer to a Flower app, beside arrays of more than 64 KiB",
    "server.database": "postgresql+psycopg://user@host/name; empty for registry.db in this folder",
    "stages": "The stages, in sequence.",
    "router": "How the mixture chooses.",
    "router.kind": "uniform, domain (embeddings), arrow, softmax, xlora or remix (REINFORCE)",
    "router.top_k": "so many experts work on a token, beside the base; 0 for all",
    "router.public_text": "text that stands for the base in the router",
    "router.granularity": "what a decision is made from: token, sequence (all so far) or request",
    "router.prefix_tokens": "a request is decided by so many of its first tokens",
    "router.per_layer": "a decision for every layer, or one that all share",
    "router.scaling": "of ReMix's constant weights: lora (1/k) or rank_stabilised (1/sqrt k)",
    "router.init": "softmax, remix: before training, zero (all alike) or domain (embeddings)",
    "router.trained_at": "coordinator (on proxy_texts) or clients (a stage of kind routing)",
    "router.proxy_texts": "name = path of public text like a domain's, to train the router on",
    "router.steps": "optimiser steps at the coordinator",
    "router.batch_size": "windows per step",
    "router.sequence_length": "tokens per window",
    "router.learning_rate": "of AdamW, for the router",
    "router.num_selections": "ReMix: selections tried of every window (M)",
    "router.entropy_weight": "ReMix: how much variety is worth",
    "router.balance_weight": "softmax, xlora: weight of the load-balance loss",
    "router.z_loss_weight": "softmax, xlora: weight of the loss on the size of logits",
    "router.experts_learning_rate": "of the experts, trained with the router; 0 freezes them",
    "evaluation": "Held-out text.",
    "evaluation.texts": "name of a domain, language or other text = path",
    "evaluation.documents": "so many of each are scored",
    "withdrawal": "What is done with an expert after an owner has withdrawn.",
    "withdrawal.margin": "worse by more than this part of its bits per byte is too much",
    "withdrawal.when_worse": "scale what is left by one factor; recover, hold it back or keep it",
    "withdrawal.recovery_rounds": "rounds of the remaining owners, if when_worse is recover",
    "evaluation.tokens": "and so many tokens of a document",
}


def render(config: FederationConfig) -> str:
    """The whole configuration as TOML, every key with what it means."""
    document = tomlkit.document()
    for line in HEAD.splitlines():
        document.add(tomlkit.comment(line))
    for section, values in asdict(config).items():
        if config.federation.app and section not in ("federation", "server"):
            continue  # of our own plan
        document.add(tomlkit.nl())
        if section == "stages":
            document.add(tomlkit.comment(COMMENTS[section]))
            document.add(section, _stages(config.stages))
        else:
            document.add(section, _table(values, _said(section)).comment(COMMENTS[section]))
    return tomlkit.dumps(document)


def _stages(stages: Sequence[Stage]) -> AoT:
    """A key is commented where it stands for the first time."""
    array, told = tomlkit.aot(), set[str]()
    for stage in stages:
        said = {key: text for key, text in descriptions(type(stage)).items() if key not in told}
        array.append(_table(asdict(stage), said))
        told |= said.keys()
    return array


def _said(section: str) -> dict[str, str]:
    start = f"{section}."
    return {key.removeprefix(start): text for key, text in COMMENTS.items() if start in key}


def _table(values: Mapping[str, Any], comments: Mapping[str, str]) -> Table:
    table = tomlkit.table()
    for key, value in values.items():
        item = tomlkit.item(_listed(value))
        if key in comments:
            item.comment(comments[key])
        table.add(key, item)
    return table


def _listed(value: Any) -> Any:
    """Tuples as lists, which TOML has."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
