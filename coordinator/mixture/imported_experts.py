"""Experts that were trained elsewhere, taken into the registry: `coordinator import`.

Such an expert has no owner in the federation. It is of no stage of the plan and has a name that no
client may train, so nothing that members do changes it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fedmore.coordinator.folder.federation import Federation, open_federation, running_alone
from fedmore.coordinator.folder.shared_base import base_of, check_fingerprint
from fedmore.coordinator.lineage.contributions import plan_digest
from fedmore.coordinator.lineage.records import Origin, Version, add_version, parents_of
from fedmore.coordinator.mixture.gate import verdict
from fedmore.coordinator.mixture.router_factory import embeddings_of
from fedmore.coordinator.mixture.versions import NO_STAGE, admit, next_of_no_stage
from fedmore.coordinator.store.records import ExpertRow
from fedmore.coordinator.store.state_keys import IMPORTED
from fedmore.experts.base.fingerprint import fingerprint_of
from fedmore.experts.base.model import linear_shapes
from fedmore.experts.conversion.change import Converted
from fedmore.experts.conversion.fine_tuned import fine_tuned_change
from fedmore.experts.conversion.peft_adapter import CONFIG, WEIGHTS, adapter_change, is_adapter
from fedmore.experts.errors import ConfigError
from fedmore.experts.factors import to_state
from fedmore.experts.names import check_name, check_targets
from fedmore.experts.reading.documents import read_documents
from fedmore.strategies.embedding_stage.embeddings import Embedding, dump, restore


@dataclass(frozen=True)
class Source:
    """What is imported.

    Args:
        path: the folder of a fine-tuned model of the base, or of a PEFT adapter.
        rank: at most this many directions of a matrix; an adapter may keep its own (None).
        text: a file of text like the expert's, by which the domain router tells it from others.

    """

    path: Path
    rank: int | None = None
    text: Path | None = None


def import_expert(directory: Path, name: str, source: Source) -> tuple[ExpertRow, Converted]:
    """Keep a version of the expert `name` made from `source`; again, it is a newer version.

    Raises `ConfigError` for a name that is taken or a source that is no expert, and
    `TransportError` while a coordinator runs.
    """
    with running_alone(directory), open_federation(directory) as federation:
        federation.registry.database.check_writable()
        _check(federation, name, source)
        check_fingerprint(federation.config.base, fingerprint_of(federation.config.base.model))
        found = _converted(federation, source)
        if source.text is not None:
            _embed(federation, name, source.text)
        return _keep(federation, name, source, found), found


def _check(federation: Federation, name: str, source: Source) -> None:
    section = federation.config.federation
    if section.app:
        raise ConfigError(f"{federation.directory}: a federation for a Flower app has no experts")
    check_name(name)
    check_targets((*section.domains, *section.languages, name))
    if source.text is not None and not source.text.exists():
        raise ConfigError(f"--text: {source.text} is not there")
    if source.rank is None and not is_adapter(source.path):
        raise ConfigError(
            "--rank: say how many directions of a fine-tuned model are kept, as in 64"
        )


def _converted(federation: Federation, source: Source) -> Converted:
    base, seed = federation.config.base.model, federation.config.federation.seed
    shapes, path = linear_shapes(base), source.path
    if is_adapter(path):
        return adapter_change(base, path, shapes, source.rank)
    assert source.rank is not None, "`_check` has seen to it"
    return fine_tuned_change(base, str(path), shapes, source.rank, seed)


def _keep(federation: Federation, name: str, source: Source, found: Converted) -> ExpertRow:
    registry, store = federation.registry, federation.store
    digest, about = store.put(save(to_state(found.factors))), _source(source, found)
    made = Version(
        name=name,
        kind="expert" if found.is_ffn_alone else "adapter",
        rank=found.rank,
        params=found.params,
        stage=NO_STAGE,
        round=next_of_no_stage(registry, name),
        digest=digest,
        metrics={"owners": [], "imported": about, **verdict(federation, name, found.factors)},
    )
    parents, config = parents_of(federation, name), plan_digest(federation.config)
    told = {"format": about["format"], "source": about["source"]}
    row = add_version(federation, made, Origin("import", config, {}, parents, told))
    admit(registry, row)
    return row


def _source(source: Source, found: Converted) -> dict[str, Any]:
    """Where a version comes from, without paths of this machine."""
    adapter = is_adapter(source.path)
    digest = _digest(source.path) if adapter else fingerprint_of(str(source.path))
    errors = {"error": found.error, "outside": found.outside}
    return {"format": "peft" if adapter else "model", "source": digest, **errors}


def _digest(folder: Path) -> str:
    parts = (hashlib.sha256((folder / name).read_bytes()).digest() for name in (CONFIG, WEIGHTS))
    return f"sha256:{hashlib.sha256(b''.join(parts)).hexdigest()}"


def _embed(federation: Federation, name: str, text: Path) -> None:
    """Keep the mean embedding of a text as the expert's, beside those that clients sent."""
    registry, store = federation.registry, federation.store
    base = base_of(federation.config)
    rows = embeddings_of(read_documents(text), base, federation.config.federation.seed)
    before = registry.get_state(IMPORTED)
    known = restore(store.get(before)) if before else {}
    digest = store.put(dump(known | {name: Embedding(name, 1, rows.mean(0))}))
    registry.set_state(IMPORTED, digest)
    if before and before != digest:
        store.delete(before)
