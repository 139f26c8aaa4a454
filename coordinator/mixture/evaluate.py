"""Held-out bits per byte of base, experts and mixture, at the coordinator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fedmore.coordinator.config.schema import FederationConfig
from fedmore.coordinator.folder.evaluation_file import write_scores
from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.folder.layout import MIXTURE
from fedmore.coordinator.folder.shared_base import base_of
from fedmore.coordinator.lineage.promotion import get_promoted
from fedmore.coordinator.mixture.assemble import load_factors
from fedmore.coordinator.mixture.router_factory import uniform_router
from fedmore.coordinator.mixture.token_usage import tokens_used
from fedmore.coordinator.mixture.validity import check_current
from fedmore.coordinator.store.state_keys import FORGETTING
from fedmore.experts.base.model import Base
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import with_change
from fedmore.experts.mixture.checkpoint import load_mixture, read_recipe
from fedmore.experts.mixture.model import Mixture
from fedmore.experts.mixture.model import assemble as build
from fedmore.experts.names import PUBLIC
from fedmore.experts.reading.conversations import chat_template
from fedmore.experts.reading.documents import read_documents
from fedmore.experts.router_training.usage import usage
from fedmore.experts.scoring import bits_per_byte as scoring
from fedmore.experts.scoring.bits_per_byte import Score
from fedmore.experts.text.tokenization import sample
from fedmore.strategies.events import Event, Scoring

PLAIN = "plain"
"""The text whose scores show forgetting: plain English, in every stage."""


Summary = dict[str, Any]


GATE = "gate/"
"""What precedes the name of a text of the gate; no other text has such a name."""


def text_of(config: FederationConfig, expert: str) -> str:
    """The text by which an expert is judged after a withdrawal: the gate's, else the evaluation's.

    It is empty if there is none.
    """
    if expert in config.gate.texts:
        return GATE + expert
    return expert if expert in config.evaluation.texts else ""


class Scorer:
    """Scores models on the same documents of every text; the base is scored once."""

    def __init__(
        self, config: FederationConfig, tell: Callable[[Event], None] = lambda _: None
    ) -> None:
        self.config, self._tell = config, tell
        self._now = Scoring("", 0, 0)
        self.base: Base = base_of(config)
        self._documents: dict[str, list[str]] = {}
        self._base: dict[str, list[Score]] = {}

    def begin(self, name: str, passes: int) -> None:
        """Scoring of a stage or of the mixture begins; it takes `passes` passes over a text."""
        self._now = Scoring(name, 0, passes)
        self._tell(self._now)

    def _passed(self) -> None:
        if self._now.done < self._now.total:
            self._now = replace(self._now, done=self._now.done + 1)
            self._tell(self._now)

    def is_scored(self, text: str) -> bool:
        """Whether the base has been scored on a text."""
        return text in self._base

    def documents(self, text: str) -> list[str]:
        """The held-out documents that are scored; the same in every call."""
        if text not in self._documents:
            gate = {GATE + name: path for name, path in self.config.gate.texts.items()}
            path = Path((self.config.evaluation.texts | gate)[text])
            found = read_documents(path, converse=chat_template(self.base.tokenizer))
            count, seed = self.config.evaluation.documents, self.config.federation.seed
            self._documents[text] = sample(found, count, seed)
        return self._documents[text]

    def score(self, model: Any, text: str) -> list[Score]:
        """A model's score of every document of a text."""
        tokens = self.config.evaluation.tokens
        found = scoring.score(model, self.base.text, self.documents(text), tokens)
        self._passed()
        return found

    def of_base(self, text: str) -> list[Score]:
        """The base's score of every document of `text`, computed once."""
        if text not in self._base:
            self._base[text] = self.score(self.base.model, text)
        return self._base[text]

    @torch.inference_mode()
    def routing(self, mixture: Mixture, text: str) -> dict[str, float]:
        """Mean weight of every expert, and of the public one, over the tokens of a text."""
        limit = self.config.evaluation.tokens
        total, count = torch.zeros(len(mixture.experts) + 1, dtype=torch.float64), 0
        for document in self.documents(text):
            ids = self.base.text.document(document)[: limit + 1]
            total += usage(mixture, torch.tensor([ids])).sum(0)
            count += len(ids)
        self._passed()
        return dict(zip((PUBLIC, *mixture.experts), (total / count).tolist(), strict=True))


def after_stage(
    scorer: Scorer, federation: Federation, stage: str, names: Sequence[str]
) -> Summary:
    """Bits per byte of every text so far and of plain English, before there is a router.

    All experts so far have the same weight, as if their changes were simply added.
    """
    registry, store = federation.registry, federation.store
    experts = {name: load_factors(store, get_promoted(registry, name)) for name in names}
    mixture = build(scorer.base.model, experts, uniform_router(scorer.base, experts))
    return _entry(stage, "uniform", _seen(scorer, mixture, stage, names))


def _seen(scorer: Scorer, mixture: Mixture, stage: str, names: Sequence[str]) -> dict[str, Summary]:
    texts = [t for t in scorer.config.evaluation.texts if t in names or t == PLAIN]
    scorer.begin(f"the stage {stage}", len(texts))
    return {text: scoring.summary(scorer.score(mixture.model, text)) for text in texts}


def _entry(stage: str, router: str, scores: Mapping[str, Summary]) -> Summary:
    return {"stage": stage, "router": router, "bits_per_byte": dict(scores)}


def evaluate(federation: Federation, scorer: Scorer | None = None) -> Summary:
    """Score the federation's mixture, its experts and the base; writes evaluation.json."""
    directory, config = federation.directory, federation.config
    registry, store = federation.registry, federation.store
    recipe = read_recipe(directory / MIXTURE)
    check_current(directory, directory / MIXTURE, registry)
    scorer = scorer or Scorer(config)
    mixture = load_mixture(directory / MIXTURE, scorer.base)
    owners = {e.target: load_factors(store, get_promoted(registry, e.name)) for e in recipe.experts}
    texts = config.evaluation.texts
    passes = sum(2 + (text in owners) + (not scorer.is_scored(text)) for text in texts)
    scorer.begin("the mixture", passes)
    rows = {text: _compare(scorer, mixture, text, owners) for text in config.evaluation.texts}
    seen: dict[str, Any] = {
        t: row["scores"]["mixture"] for t, row in rows.items() if t in owners or t == PLAIN
    }
    earlier = registry.get_state(FORGETTING, [])
    result: Summary = {
        "base": {
            "name": Path(config.base.model).name,  # a folder elsewhere is nobody's concern
            "params": scorer.base.parameters,
            "fingerprint": scorer.base.fingerprint,
        },
        "mixture": {
            "params": mixture.params,
            "active_params": mixture.active_params(mixture.router.spec.top_k),
            "router": mixture.router.spec.kind,
            "top_k": mixture.router.spec.top_k,
        },
        "bits_per_byte": {text: row["scores"] for text, row in rows.items()},
        "paired": {text: row["paired"] for text, row in rows.items()},
        "forgetting": [*earlier, _entry("router", mixture.router.spec.kind, seen)],
        "routing": {text: scorer.routing(mixture, text) for text in rows},
        "tokens": {text: tokens_used(scorer, mixture, text) for text in rows},
    }
    write_scores(directory, registry, result)
    return result


def _compare(
    scorer: Scorer, mixture: Mixture, text: str, owners: Mapping[str, Factors]
) -> dict[str, dict[str, Summary | None]]:
    """Scores of one text, and the same as paired differences to the base."""
    base = scorer.of_base(text)
    found: dict[str, list[Score] | None] = {"own_expert": None}
    if text in owners:
        found["own_expert"] = scorer.score(with_change(scorer.base.model, owners[text]), text)
    found["mixture"] = scorer.score(mixture.model, text)
    scores = {k: scoring.summary(v) if v else None for k, v in found.items()}
    paired = {k: scoring.difference(v, base) if v else None for k, v in found.items()}
    own, mixed = found["own_expert"], found["mixture"]
    paired["gain_kept"] = scoring.gain_kept(base, own, mixed) if own and mixed else None
    return {"scores": {"base": scoring.summary(base), **scores}, "paired": paired}
