"""What a federation asks of its owners, as each of them agrees to it before the first task.

The coordinator tells its `Terms` with the federation's name and base. The owner's client shows
them, keeps them, and does a task only if every setting of it is what the terms say
(`agreement.py` of each stage). The terms are read strictly: a setting that this version does not
know is not agreed to. Imports nothing heavy.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, asdict, fields, replace
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from fedmore.experts.errors import WireError
from fedmore.experts.former_names import ROUTER, STAGE, former, today
from fedmore.experts.plugins import Plugin
from fedmore.experts.routers.spec import ROUTERS, Granularity, Init, RouterSpec, Scaling
from fedmore.strategies.compression import policy
from fedmore.strategies.settings import STRICT, one_line, parse
from fedmore.strategies.stages.base import Stage, TrainingStage
from fedmore.strategies.stages.kinds import PLUGINS, STAGES, AnyStage

EMBED_DOCUMENTS = 1000  # FlexOlmo, arXiv 2507.07024: about a thousand documents a domain
EMBED_TOKENS = 128

COORDINATORS_OWN = (
    "timeout_s", "deadline_s", "quorum_fraction", "late_updates", "staleness_decay", "aggregation",
    "malicious_fraction", "max_client_weight", "max_rms", "clip_norm", "server_learning_rate",
    "server_momentum", "fold_tolerance", "aggregate_energy", "broadcast_rank",
)  # fmt: skip
"""Settings of a stage that say what the coordinator does with answers; no task carries them."""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RouterTerms:
    """How a router is trained at the clients; see `RouterSpec` and a router's training.

    A `kind` that this machine does not know matters only if the clients train the router.
    """

    kind: str
    granularity: Granularity
    prefix_tokens: int
    top_k: int
    scaling: Scaling
    init: Init
    num_selections: int
    entropy_weight: float
    z_loss_weight: float
    hidden: int = RouterSpec.hidden


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Terms:
    """The stages of a plan, its seed, and what else a task of it may say.

    `opener` is the token that opens a document, and `open_windows` says if it opens windows inside
    one too. A domain embedding is of `embed_documents` passages of `embed_tokens` tokens at most.
    """

    seed: int
    stages: tuple[AnyStage, ...]
    router: RouterTerms
    opener: str = "auto"
    open_windows: bool = False
    embed_documents: int = EMBED_DOCUMENTS
    embed_tokens: int = EMBED_TOKENS

    def stage(self, kind: str) -> Stage | None:
        """The stage of a kind; None if the plan has no such stage."""
        return next((stage for stage in self.stages if stage.kind == kind), None)

    @property
    def trains_router(self) -> bool:
        """Whether the clients train the router."""
        return self.stage("routing") is not None

    def plugins(self) -> list[Plugin]:
        """The installed plugins that tasks of this plan use; raises `WireError`.

        A stage, an update, a download or a router may need one. Nothing is imported.
        """
        trained = [each for each in self.stages if isinstance(each, TrainingStage)]
        codecs = [text for each in trained for text in (each.update_codec, each.download_codec)]
        found = STAGES.added(stage.kind for stage in self.stages)
        found += [plugin for text in codecs for plugin in policy.plugins_of(text)]
        if self.trains_router:
            found += ROUTERS.added([self.router.kind])
        return sorted(dict.fromkeys(found), key=lambda plugin: plugin.key)

    def dump(self) -> str:
        """As JSON; equal terms give equal text.

        Settings have the names that plans always had, so that earlier versions know them.
        """
        stages = [former(stage.table(), STAGE) for stage in self.stages]
        router = former(asdict(self.router), ROUTER)
        return json.dumps(asdict(self) | {"stages": stages, "router": router}, sort_keys=True)


_TERMS = TypeAdapter(Terms)


def read_terms(text: str, plugins: Collection[str] = ()) -> Terms:
    """The inverse of `Terms.dump`; raises `WireError` for anything else.

    Only `plugins`, the keys of those that the owner has allowed, are imported to read a stage.
    """
    try:
        table = json.loads(text)
        if not isinstance(table, dict):
            raise WireError(f"the plan is a {type(table).__name__}, not a table")
        if isinstance(table.get("router"), dict):
            table["router"] = today(table["router"], ROUTER)
        terms = parse(_TERMS, table, {PLUGINS: plugins})
        kinds = [stage.kind for stage in terms.stages]
        if len(set(kinds)) < len(kinds):  # its owners see both, and a task could be of either
            raise WireError("the federation's plan has two stages of one kind")
        if terms.trains_router:
            ROUTERS.check(terms.router.kind)
        return terms
    except (ValueError, RecursionError) as error:
        raise WireError(
            f"the federation's plan is not one of this version: {one_line(error)}"
        ) from error


def owners_part(stage: Stage) -> Stage:
    """A stage without the coordinator's own settings, so that changing these changes no terms."""
    defaults: dict[str, Any] = {
        f.name: f.default for f in fields(stage) if f.name in COORDINATORS_OWN
    }
    if MISSING in defaults.values():
        raise TypeError(f"every one of {', '.join(COORDINATORS_OWN)} needs a default")
    return replace(stage, **defaults)


def changes(old: Terms, new: Terms) -> list[str]:
    """What an owner who agreed to `old` would agree to with `new`, a line for each difference."""
    found = differing(asdict(old), asdict(new), frozenset({"stages", "router"}))
    found += differing(asdict(old.router), asdict(new.router), frozenset(), "router.")
    kinds = dict.fromkeys(stage.kind for stage in (*old.stages, *new.stages))
    for kind in kinds:
        before, after = old.stage(kind), new.stage(kind)
        if before is None or after is None:
            found.append(f"the stage {kind!r} is {'new' if before is None else 'gone'}")
        else:
            found += _changes_of_stage(before.table(), after.table(), f"{kind}: ")
    return found


def _changes_of_stage(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    """The settings that differ; one of a later version of its plugin may be in one table only."""
    both: dict[str, Any] = dict.fromkeys((*old, *new))
    return differing(both | old, both | new, frozenset(), prefix)


def rows(terms: Terms) -> Iterator[tuple[str, str]]:
    """What an owner is shown of the terms: a heading and a line for each stage and plugin."""
    for stage in terms.stages:
        yield stage.kind, stage.summary(terms)
    for plugin in terms.plugins():
        yield "plugin", f"{plugin.key}, from the package {plugin.package} on this machine"


def differing(
    agreed: Mapping[str, Any], asked: Mapping[str, Any], varying: frozenset[str], prefix: str = ""
) -> list[str]:
    """A line for each setting that is asked for otherwise than was agreed."""
    return [
        f"{prefix}{name} is {asked[name]}, agreed was {agreed[name]}"
        for name in agreed
        if name not in varying and asked[name] != agreed[name]
    ]
