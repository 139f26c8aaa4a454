"""Rounds of owners of one expert, by the product's own training, codecs and step, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fedmore.client.training.expert import Schedule, train
from fedmore.experts import factors as low_rank
from fedmore.experts.factors import Factors
from fedmore.experts.low_rank_linear import combine
from fedmore.experts.spec import ExpertSpec, TargetModule
from fedmore.sims.studies.rounds.world import World
from fedmore.strategies.compression.codec import codecs_of
from fedmore.strategies.compression.error_feedback import send
from fedmore.strategies.expert_stage.changes import Change
from fedmore.strategies.expert_stage.downloads import leading
from fedmore.strategies.expert_stage.round_start import rotated, start_of
from fedmore.strategies.expert_stage.state import ExpertState, fresh, without
from fedmore.strategies.expert_stage.step import advance, outer_of
from fedmore.strategies.stages.expert import ExpertStage


@dataclass(frozen=True)
class Owner:
    """An owner of a part of a text; `size` is what it counts."""

    name: str
    rank: int
    text: str
    part: int = 0
    parts: int = 1
    size: float = 1.0


@dataclass
class Held:
    """What an owner holds: factors that both ends have, and what it owes."""

    factors: Factors
    owed: Factors


@dataclass
class Federation:
    """One expert, and what its owners hold; `late_updates` are answers that were not taken yet."""

    world: World
    stage: ExpertStage
    seed: int
    state: ExpertState = field(init=False)
    held: dict[str, Held] = field(default_factory=dict)
    late: dict[str, tuple[Change, int]] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        """Begin with an expert that changes nothing."""
        sites = ExpertSpec("study", "expert", "study", 1).sites(self.world.shapes)
        self.state = fresh("study", "expert", sites)

    def round(self, owners: Sequence[Owner], held_up: Sequence[str] = ()) -> list[Change]:
        """Run one round with the owners who are present; returns the changes that were taken in it.

        The answers of `held_up` owners are taken in the next round.
        """
        self.number += 1
        decay = self.stage.staleness_decay
        taken = [
            replace(change, fresh=decay ** (self.number - number))
            for change, number in self.late.values()
        ]
        busy, self.late = set(self.late), {}
        for owner in owners:
            if owner.name in busy:
                continue
            change = self._train(owner)
            if owner.name in held_up:
                self.late[owner.name] = change, self.number
            else:
                taken.append(change)
        if taken:
            self.state, _ = advance(
                self.state,
                taken,
                self.stage.max_rank,
                outer=outer_of(self.stage),
                energy=self.stage.aggregate_energy,
            )
        return taken

    @property
    def sent(self) -> Factors:
        """What the owners train over: the stage's `broadcast_rank` limits what several are sent."""
        several = len(self.state.owners) > 1
        most = self.stage.broadcast_rank if several else 0
        return leading(self.state.aggregate, most).factors

    def withdraw(self, name: str) -> None:
        """An owner takes its part back."""
        self.state, _ = without(
            self.state, {name}, self.stage.max_rank, self.stage.aggregate_energy
        )

    def score(self, texts: Sequence[str]) -> float:
        """Bits per byte under the aggregate."""
        return self.world.score(self.state.aggregate if self.state.rank else None, texts)

    def _train(self, owner: Owner) -> Change:
        stage = self.stage
        name, scaling = f"study/{owner.name}", stage.rank_scaling
        spec = ExpertSpec(name, "expert", "study", owner.rank, scaling=scaling)
        sites = spec.sites(self.world.shapes)
        own = self._begin(owner, sites, spec)
        start = low_rank.total(own.factors, own.owed)
        frozen = combine([(self.sent, 1.0), (own.factors, -spec.scale)])
        schedule = Schedule(
            stage.steps, self.world.batch, stage.rate_of(owner.rank), self.number, stage.rounds,
            stage.warm_up == "every_round" or owner.name not in self.held,
        )  # fmt: skip
        documents = self.world.texts[owner.text][0][owner.part :: owner.parts]
        seed = low_rank.seed_of(self.seed, owner.name, self.number)
        trained = train(
            self.world.base.model, sites, start, frozen, spec.scale,
            self.world.windows(documents, stage.steps, seed), schedule, lambda *_: None,
        )  # fmt: skip
        moved = low_rank.tensors(low_rank.difference(trained.factors, start), sites)
        codecs = codecs_of(stage.codec, [tuple(tensor.shape) for tensor in moved])
        sent = send(codecs, moved, low_rank.tensors(own.owed, sites))
        after = low_rank.total(own.factors, low_rank.from_tensors(sent.decoded, sites))
        self.held[owner.name] = Held(after, low_rank.from_tensors(sent.residual, sites))
        return Change(owner.name, own.factors, after, owner.size, spec.scale)

    def _begin(self, owner: Owner, sites: Sequence[TargetModule], spec: ExpertSpec) -> Held:
        first = low_rank.initial(spec, sites, self.seed)
        known = self.held.get(owner.name)
        if self.stage.round_start == "own":
            return known or Held(first, low_rank.zeros(first))
        start = start_of(self.sent, first, spec.scale)
        owed = rotated(known.owed, known.factors, start) if known else low_rank.zeros(start)
        return Held(start, owed)
