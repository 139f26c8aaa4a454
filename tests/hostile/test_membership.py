"""A coordinator that changes what it says: another member number, another base, another plan.

What an owner has answered is its own to remember; no word of the coordinator makes it forget.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from victim import SECRET, TERMS, ask_for, embed, sites_of, train_message

from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.policy_guard import guard_of
from fedmore.client.identity import enrolment as invites
from fedmore.client.joining.consent import accept, agree
from fedmore.client.joining.join import check_told
from fedmore.client.joining.node_options import node_config
from fedmore.client.joining.options import JoinOptions
from fedmore.client.owner.agreement import Agreement
from fedmore.client.owner.policy import OwnerPolicy, dump_policy
from fedmore.experts.errors import ConfigError, EgressError, WireError
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.strategies.tasks.train import EMBED, TRAIN


def renumbered(careful, node_id):
    """The same owner, whom the coordinator calls another member."""
    careful.context = Context(1, node_id, careful.context.node_config, RecordDict(), {})
    careful.guard = guard_of(node_id, careful.context.node_config, Audit(careful.folder))
    return careful


def more_text(careful):
    """The owner adds one document; the difference of two embeddings would be that document."""
    with Path(careful.context.node_config["data"]).open("a") as file:
        file.write(json.dumps({"text": "A new patient came in with measles."}) + "\n")


@pytest.mark.parametrize("changes", [{"learning_rate": 3e-3}, {"seed": 1}, {"round": 4}], ids=str)
def test_another_member_number_gives_no_second_answer(careful, base, changes):
    careful.do(TRAIN, train_message(ask_for(), base))
    with pytest.raises((EgressError, WireError)):
        renumbered(careful, 99).do(TRAIN, train_message(ask_for(**changes), base))


def test_another_member_number_and_another_aggregate_give_no_second_answer(careful, base):
    """Two answers of one round over one text, from two beginnings, are what is never given."""
    careful.do(TRAIN, train_message(ask_for(), base))
    silent = {
        s.path: (torch.zeros(s.out_features, 1), torch.zeros(1, s.in_features))
        for s in sites_of(base)
    }
    with pytest.raises(EgressError, match="a second time and in another way"):
        renumbered(careful, 99).do(TRAIN, train_message(ask_for(), base, silent))


@pytest.mark.parametrize("consent", ["plan", "bounds"])
def test_there_is_one_embedding_under_any_number_and_after_any_change_of_text(careful, consent):
    """Its noise is the same for ever, so a second one of a longer text would show what is new."""
    careful.context.node_config["policy"] = dump_policy(OwnerPolicy(consent=consent))
    first = renumbered(careful, 7).do(EMBED, embed())
    more_text(careful)
    assert renumbered(careful, 99).do(EMBED, embed()).content == first.content


STAGES = ("language", "router", "routing", "experts2", "", "experts/1")


@pytest.mark.parametrize("consent", ["plan", "bounds"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_task_belongs_to_stages_of_its_kind(careful, base, stage, consent):
    """Under another stage's name its rounds would be counted anew."""
    careful.context.node_config["policy"] = dump_policy(OwnerPolicy(consent=consent))
    renumbered(careful, 5)
    with pytest.raises(EgressError, match="asked for a task of experts in a stage"):
        careful.do(TRAIN, train_message(ask_for(stage=stage), base))
    with pytest.raises(EgressError, match="asked for a task of router in a stage"):
        careful.do(EMBED, embed(stage="experts" if stage == "router" else stage))


def test_a_member_stays_the_one_that_it_is(tmp_path):
    identity = invites.Identity(
        "f", "a", "x:1", None, None, "d", 5, "expert", "legal", 4, FederationInfo("f", "b"), "k",
        tmp_path,
    )  # fmt: skip
    invites._check_same(identity, 5)
    invites._check_same(None, 6)
    with pytest.raises(ConfigError, match=r"another member than before .node id 6, not 5"):
        invites._check_same(identity, 6)


INFO = FederationInfo("f", "base", "f" * 64, "float32", plan=TERMS.dump())
SWAPPED = {
    "base": "other", "fingerprint": "0" * 64, "dtype": "bfloat16", "quantization": "nf4",
    "opener": "<x>", "open_windows": True, "seed": 9, "name": "g",
}  # fmt: skip


@pytest.mark.parametrize("name", SWAPPED)
def test_what_was_checked_is_what_is_joined(name):
    """Between the question what a federation is and the enrolment it may have become another."""
    with pytest.raises(ConfigError, match=f"the federation's {name} changed between"):
        check_told(INFO, replace(INFO, **{name: SWAPPED[name]}))
    check_told(INFO, INFO)


def test_a_plan_that_is_swapped_after_it_was_shown_is_not_the_one_agreed_to(tmp_path):
    """With `--yes` too: what is kept is what was shown, and the other waits."""
    agreement, said = Agreement(tmp_path), []
    agree(INFO, agreement, OwnerPolicy(), said.append, lambda _: True)
    other = replace(TERMS, stages=(replace(TERMS.stages[0], steps=5), *TERMS.stages[1:]))
    agree(replace(INFO, plan=other.dump()), agreement, OwnerPolicy(), said.append, lambda _: True)
    assert agreement.agreed == TERMS
    assert agreement.offered == other
    assert "experts: steps is 5, agreed was 8" in said[-1]


def test_a_plan_that_changes_while_the_owner_reads_is_not_the_one_agreed_to(tmp_path):
    agreement, said = Agreement(tmp_path), []
    agreement.accept(TERMS)
    first, second = (
        replace(TERMS, stages=(replace(TERMS.stages[0], rounds=n), *TERMS.stages[1:]))
        for n in (4, 400)
    )
    agreement.offer(first, OwnerPolicy())

    def think(_question):
        agreement.offer(second, OwnerPolicy())
        return True

    accept(tmp_path, said.append, think)
    assert agreement.agreed == first


def test_what_opens_windows_is_as_agreed_whatever_is_said_later(tmp_path):
    Agreement(tmp_path).accept(replace(TERMS, opener="<s>", open_windows=True))
    options = JoinOptions(tmp_path / "invite.json", tmp_path, "expert", "legal", rank=4)
    config = node_config(options, INFO, "a", 4, "base", "cpu", tmp_path)
    assert (config["opener"], config["open_windows"]) == ("<s>", True)


def test_owners_of_one_expert_are_told_what_the_other_can_work_out(tmp_path):
    said = []
    agree(INFO, Agreement(tmp_path), OwnerPolicy(), said.append, lambda _: True)
    assert any("each of you can work out the other's updates" in line for line in said)


def test_no_file_of_an_owner_holds_its_text(careful, base):
    """What is kept on the owner's disk beside the text: nothing of it."""
    careful.do(TRAIN, train_message(ask_for(), base))
    careful.do(EMBED, embed())
    data = Path(careful.context.node_config["data"])
    files = [f for f in careful.folder.rglob("*") if f.is_file() and f != data]
    assert len(files) >= 4
    assert not [f for f in files for text in SECRET if text[:40].encode() in f.read_bytes()]
