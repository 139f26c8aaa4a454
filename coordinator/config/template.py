"""A configuration as a commented `federation.toml`; `parse_config` reads it back to the same."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from fedmore.coordinator.config.schema import FederationConfig

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
    "server.dead_after_s": "and counts as gone after this silence; a restart takes some 10 s",
    "server.rejoin_s": "after a restart, how long a plan in progress waits for all of its clients",
    "server.upload_bytes": "of a client that no answer names yet; a full-size expert is large",
    "server.content_bytes": "of an answer to a Flower app, beside arrays of more than 64 KiB",
    "server.database": "postgresql+psycopg://user@host/name; empty for registry.db in this folder",
    "stages": "The stages, in sequence.",
    "stages.kind": "experts, language, router (embeddings) or routing (clients train the router)",
    "stages.rounds": "how often the clients train and the results are aggregated",
    "stages.steps": "optimiser steps per client and round",
    "stages.batch_size": "windows per step",
    "stages.sequence_length": "tokens per window",
    "stages.learning_rate": "of AdamW",
    "stages.codec": "fp32, bf16, int8, nf4, sign1 (1 bit per number), auto, or auto,factor_b=nf4",
    "stages.rank_learning_rates": "[[rank, rate], ...]: the rate of owners from that rank on",
    "stages.rank_scaling": "s of a product: constant, or rslora (less for large ranks)",
    "stages.warm_up": "of the learning rate: once, in an owner's first round, or every_round",
    "stages.round_start": "own: owners go on with their factors; aggregate: with its directions",
    "stages.server_learning_rate": "how much of a round's mean change is taken",
    "stages.server_momentum": "Nesterov's, over rounds; 0 for none",
    "stages.fold_tolerance": "what may be left out of a contribution, as a part of its norm",
    "stages.weight_bits": "train factors as weights of 1, 2 or 4 bits, sent whole; 0: as they are",
    "stages.download_codec": "coordinator to client; but for fp32 and bf16 it moves a mirror",
    "stages.first_layers": "a language adapter changes so many layers from the first",
    "stages.last_layers": "and so many up to the last",
    "stages.threads": "CPU threads per client; 0 leaves it to the client",
    "stages.max_rank": "what the coordinator keeps of an aggregate",
    "stages.timeout_s": "seconds after which a round does without who has not answered",
    "stages.deadline_s": "seconds after which a quorum is enough; 0 waits for everybody",
    "stages.quorum": "part of those asked without whom a round fails; at least one",
    "stages.late": "an update after its round: keep it for the next one, or refuse it",
    "stages.staleness": "factor of a late update's weight for every round that it is behind",
    "stages.aggregation": "mean, clipped, krum, multi_krum, trimmed_mean, median (against harm)",
    "stages.clip_norm": "clipped: largest norm of an owner's change; 0 takes the round's median",
    "stages.hostile": "the part of an expert's owners that krum and trimmed_mean withstand",
    "stages.max_share": "of a round's weight, that one of several owners may have; 1: no limit",
    "stages.max_rms": "refuse an update with larger numbers than this; 0 for a bound by the steps",
    "router": "How the mixture chooses.",
    "router.kind": "uniform, domain (embeddings), arrow, softmax, xlora or remix (REINFORCE)",
    "router.top_k": "so many experts work on a token, beside the base; 0 for all",
    "router.public_text": "text that stands for the base in the router",
    "router.level": "what a decision is made from: token, sequence (all so far) or request",
    "router.prefix": "a request is decided by so many of its first tokens",
    "router.per_layer": "a decision for every layer, or one that all share",
    "router.scaling": "of ReMix's constant weights: lora (1/k) or rank_stabilised (1/sqrt k)",
    "router.start": "softmax, remix: before training, zero (all alike) or domain (embeddings)",
    "router.trained_at": "coordinator (on proxy_texts) or clients (a stage of kind routing)",
    "router.proxy_texts": "name = path of public text like a domain's, to train the router on",
    "router.steps": "optimiser steps at the coordinator",
    "router.batch_size": "windows per step",
    "router.sequence_length": "tokens per window",
    "router.learning_rate": "of AdamW, for the router",
    "router.samples": "ReMix: selections tried of every window (M)",
    "router.entropy": "ReMix: how much variety is worth",
    "router.balance": "softmax, xlora: weight of the load-balance loss",
    "router.z_loss": "softmax, xlora: weight of the loss on the size of logits",
    "router.experts_rate": "learning rate of the experts, trained with the router; 0 freezes them",
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
            document.add(section, _stages(values))
        else:
            document.add(section, _table(section, values).comment(COMMENTS[section]))
    return tomlkit.dumps(document)


def _stages(stages: Sequence[Mapping[str, Any]]) -> AoT:
    """Only the first stage is commented: the others have the same keys."""
    array = tomlkit.aot()
    for index, stage in enumerate(stages):
        array.append(_table("stages", stage, commented=index == 0))
    return array


def _table(section: str, values: Mapping[str, Any], commented: bool = True) -> Table:
    table = tomlkit.table()
    for key, value in values.items():
        item = tomlkit.item(_listed(value))
        if commented:
            item.comment(COMMENTS[f"{section}.{key}"])
        table.add(key, item)
    return table


def _listed(value: Any) -> Any:
    """Tuples as lists, which TOML has."""
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
