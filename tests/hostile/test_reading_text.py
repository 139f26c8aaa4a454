"""A coordinator that wants to read the owner's text: the whole attack, and what is left of it.

The same attacker plays against an owner whose bounds are wide open, which shows that the attack
works, and against the client at its defaults.
"""

from dataclasses import replace

import pytest
import torch
from owners import owner
from reading import SIZE, make_trap, read_token
from stages import OWN_FACTORS
from thinning import rarer_slow
from victim import NODE, PUBLIC, SECRET, TERMS, Victim, ask_for, embed, sites_of, train_message

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.ingress.weights import loss_of
from fedmore.client.owner.agreement import Agreement
from fedmore.client.owner.policy import OwnerPolicy, dump_policy
from fedmore.experts import factors as low_rank
from fedmore.experts.errors import EgressError, FedmoreError
from fedmore.experts.low_rank_linear import with_change
from fedmore.strategies.tasks.train import EMBED, TRAIN, pack, read_update

TOKENS = 24


@pytest.fixture(scope="module")
def trap(base):
    ids = torch.tensor([base.tokenizer(PUBLIC)["input_ids"][:256]])
    return make_trap(base.model, sites_of(base), ids)


@pytest.fixture
def careless(tmp_path, base):
    return Victim(tmp_path, base, owner(tmp_path, "a", min_tokens=1))


ONE_TOKEN = {
    "steps": 1, "batch_size": 1, "sequence_length": 1, "learning_rate": 1e-6, "codec": "fp32",
    "rounds": TOKENS,
}  # fmt: skip


def windows_seen(monkeypatch):
    """The truth that the attacker does not have: every window that the client trained on."""
    from fedmore.client.training import expert_work

    seen, true = [], expert_work.train

    def watched(model, sites, start, frozen, scale, windows_WT, *rest):
        seen.append(windows_WT.clone())
        return true(model, sites, start, frozen, scale, windows_WT, *rest)

    monkeypatch.setattr(expert_work, "train", watched)
    return seen


def attack(victim, base, trap, tasks):
    """What each task gives: the token that it names, or None where nothing left."""
    named = []
    for task in tasks:
        try:
            reply = victim.do(TRAIN, train_message(task, base, trap.change))
        except EgressError:
            named.append(None)
            continue
        change = read_update(reply.content, sites_of(base), task.rank, task.codec)
        named.append(read_token(trap, change[trap.path][0])[0])
    return named


def test_the_attack_reads_whoever_has_no_bounds(careless, base, trap, monkeypatch):
    """Token by token, in the order of the owner's text: this is what has to be impossible."""
    seen = windows_seen(monkeypatch)
    tasks = [ask_for(round=n + 1, updates=n, **ONE_TOKEN) for n in range(TOKENS)]
    named = attack(careless, base, trap, tasks)
    truth = [int(windows[0, -1]) for windows in seen]
    assert len(truth) == TOKENS
    right = sum(a == b for a, b in zip(named, truth, strict=True))
    assert right >= 0.9 * TOKENS


FORGED = {
    "one token": ONE_TOKEN,
    "one step": {"steps": 1, "batch_size": 1},
    "one window": {"batch_size": 1},
    "short windows": {"sequence_length": 2},
    "long windows": {"sequence_length": 65},
    "a high learning rate": {"learning_rate": 1.0},
    "a tiny learning rate": {"learning_rate": 1e-9},
    "full precision": {"codec": "fp32"},
    "half precision": {"codec": "bf16"},
    "a mix of layouts": {"codec": "sign1,factor_b=fp32"},
    "another seed": {"seed": 1},
    "a round that is not in the plan": {"round": 4},
    "round 0": {"round": 0},
    "another stage's name": {"stage": "experts2"},
    "the other kind of stage": {"stage": "language"},
    "a stage that embeds": {"stage": "router"},
    "more rounds": {"rounds": 9},
    "weights of one bit": {"weight_bits": 1, "codec": "bits1"},
    "a hundred thousand threads": {"threads": 100_000},
    "another rank": {"rank": 64},
    "the last block alone": {"first_layers": 0, "last_layers": 1},
}  # fmt: skip
OFTEN = ("one token", "one window", "another seed", "full precision", "another rank")


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED)
def test_a_task_that_the_owner_did_not_agree_to_gives_nothing(careful, base, changes):
    with pytest.raises(EgressError):
        careful.do(TRAIN, train_message(ask_for(**changes), base))
    assert len(careful.refusals()) == 1


@pytest.mark.parametrize("name", rarer_slow(FORGED, OFTEN))
def test_nor_does_it_after_an_honest_round(careful, base, name):
    """What an answered round and another one of it differ in would be single tokens."""
    first = careful.do(TRAIN, train_message(ask_for(), base))
    with pytest.raises(EgressError):
        careful.do(TRAIN, train_message(ask_for(**FORGED[name]), base))
    assert careful.do(TRAIN, train_message(ask_for(), base)).content == first.content


def test_the_whole_attack_on_the_client_at_its_defaults(careful, base, trap):
    tasks = [ask_for(round=n + 1, updates=n, **ONE_TOKEN) for n in range(TOKENS)]
    assert attack(careful, base, trap, tasks) == [None] * TOKENS
    assert len(careful.refusals()) == TOKENS


@pytest.mark.parametrize("size", [SIZE, 10.0, 2.2])
def test_a_trap_in_an_agreed_task_is_too_large(careful, base, size):
    """The figure stands in the audit."""
    ids = torch.tensor([base.tokenizer(PUBLIC)["input_ids"][:256]])
    change = make_trap(base.model, sites_of(base), ids, size).change
    with pytest.raises(EgressError, match="times the spectral norm of the base's own"):
        careful.do(TRAIN, train_message(ask_for(), base, change))
    (reason,) = careful.refusals()
    figure = float(reason.split("has ")[1].split(" times")[0])
    assert figure == pytest.approx(size, rel=0.01)


def small_change(base, seed):
    """A random change of every matrix, of nine tenths of its spectral norm."""
    generator, change = torch.Generator().manual_seed(seed), {}
    for site in sites_of(base):
        norm = float(torch.linalg.matrix_norm(base.model.get_submodule(site.path).weight, 2))
        b = torch.linalg.qr(torch.randn(site.out_features, 32, generator=generator))[0]
        a = torch.linalg.qr(torch.randn(site.in_features, 32, generator=generator))[0].T
        change[site.path] = (0.9 * norm * b, a)
    return change


def test_a_change_that_ruins_the_base_is_known_by_the_owners_own_text(careful, base):
    """Every matrix small enough, all of them together not; the figure is the owner's alone."""
    ids = torch.tensor([base.tokenizer(text)["input_ids"][:65] for text in SECRET[:8]])
    losses = {
        seed: loss_of(with_change(base.model, small_change(base, seed)), ids) for seed in range(8)
    }
    worst = max(losses, key=losses.__getitem__)
    assert losses[worst] > loss_of(base.model, ids) + 0.01
    change = small_change(base, worst)
    careful.context.node_config["policy"] = dump_policy(OwnerPolicy(max_worse=1e-4))
    careful.guard = guard_of(NODE, careful.context.node_config, Audit(careful.folder))
    with pytest.raises(EgressError, match="held-out text is worse") as raised:
        careful.do(TRAIN, train_message(ask_for(), base, change))
    assert "nats" not in str(raised.value)
    assert "nats a token, at most +0.0001 are taken" in careful.refusals()[0]


def test_windows_are_drawn_with_the_owners_secret(tmp_path, base, monkeypatch):
    """Who knows the plan's seed and has the same text still does not know the windows."""
    seen = windows_seen(monkeypatch)
    for name in ("a", "b"):
        Agreement(tmp_path / name).accept(TERMS)
        victim = Victim(tmp_path / name, base, owner(tmp_path / name, name) | {"policy": ""})
        victim.do(TRAIN, train_message(ask_for(), base))
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", ["component", "residual", "start", "extra"])
def test_what_a_client_begins_from_is_not_the_coordinators_to_choose(careful, base, name):
    """No task brings factors that a client would take for its own."""
    content = train_message(ask_for(), base)
    chosen = low_rank.initial(ask_for().spec("a"), sites_of(base), 99)
    content["state"][name] = pack("fp32", low_rank.tensors(chosen, sites_of(base)))
    with pytest.raises(FedmoreError, match=f"it brings '{name}'"):
        careful.do(TRAIN, content)


def test_a_client_that_lost_its_state_begins_from_nothing(tmp_path, base):
    """Where owners go on with their own factors; otherwise a round needs no state of theirs."""
    own = replace(TERMS, stages=(replace(TERMS.stages[0], **OWN_FACTORS), *TERMS.stages[1:]))
    Agreement(tmp_path).accept(own)
    victim = Victim(tmp_path, base, owner(tmp_path, "a") | {"policy": ""})
    asked = ask_for(updates=1, round=2, round_start="own")
    with pytest.raises(FedmoreError, match="this client knows 0 of its 1 updates"):
        victim.do(TRAIN, train_message(asked, base))


ASKED_AGAIN = {
    "fewer documents": {"documents": 16},
    "one token of each": {"tokens": 1},
    "another seed": {"seed": 1},
    "another round": {"round": 2},
    "another stage": {"stage": "experts"},
}


@pytest.mark.parametrize("changes", ASKED_AGAIN.values(), ids=ASKED_AGAIN)
def test_the_embedding_is_asked_once_and_as_agreed(careful, changes):
    first = careful.do(EMBED, embed())
    with pytest.raises(EgressError):
        careful.do(EMBED, embed(**changes))
    assert careful.do(EMBED, embed()).content == first.content
