"""An owner agrees to a plan at `client join`, and to a later one with `client accept`."""

import io
from dataclasses import replace

import pytest

from fedmore.client.joining.consent import accept, agree, asker, tell_offer
from fedmore.client.owner.agreement import OFFERED, PLAN, Agreement
from fedmore.client.owner.policy import OwnerPolicy
from fedmore.experts.errors import ConfigError, EgressError
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.terms import RouterTerms, Terms

ROUTER = RouterTerms(
    kind="domain", granularity="sequence", prefix_tokens=32, top_k=2, scaling="lora", init="zero",
    num_selections=4, entropy_weight=0.0, z_loss_weight=1e-3,
)  # fmt: skip
TERMS = Terms(seed=3, stages=(ExpertStage(), EmbeddingStage()), router=ROUTER)
GREEDY = replace(TERMS, stages=(ExpertStage(learning_rate=1.0), *TERMS.stages[1:]))
MORE = replace(TERMS, stages=(ExpertStage(rounds=9), *TERMS.stages[1:]))


def info(terms: Terms) -> FederationInfo:
    return FederationInfo("fed", "base", plan=terms.dump())


def yes(_: str) -> bool:
    return True


def no(_: str) -> bool:
    return False


@pytest.fixture
def agreement(tmp_path):
    return Agreement(tmp_path / "state")


@pytest.fixture
def said():
    return []


def test_the_plan_is_shown_and_kept(agreement, said):
    agree(info(TERMS), agreement, OwnerPolicy(), said.append, yes)
    assert agreement.agreed == TERMS
    assert (agreement.state / PLAN).stat().st_mode & 0o777 == 0o600
    assert any("3 rounds of 10 steps x 4 windows of 128 tokens" in line for line in said)


def test_no_is_no(agreement, said):
    with pytest.raises(ConfigError, match="you did not agree"):
        agree(info(TERMS), agreement, OwnerPolicy(), said.append, no)
    assert agreement.agreed is None


def test_nobody_is_asked_twice(agreement, said):
    agree(info(TERMS), agreement, OwnerPolicy(), said.append, yes)
    agree(info(TERMS), agreement, OwnerPolicy(), said.append, no)
    assert agreement.offered is None


def test_out_of_bounds_is_not_even_asked(agreement, said):
    with pytest.raises(EgressError, match=r"learning_rate is 1.0, the owner's bound is 0.1"):
        agree(info(GREEDY), agreement, OwnerPolicy(), said.append, yes)
    assert agreement.agreed is None
    assert not said


def test_a_pinned_plan_needs_no_question(agreement, said, tmp_path):
    (tmp_path / "plan.json").write_text(TERMS.dump())
    agree(info(TERMS), agreement, OwnerPolicy(), said.append, no, tmp_path / "plan.json")
    assert agreement.agreed == TERMS


def test_another_plan_than_the_pinned_one_is_refused(agreement, said, tmp_path):
    (tmp_path / "plan.json").write_text(TERMS.dump())
    with pytest.raises(ConfigError, match=r"experts: rounds is 9, agreed was 3"):
        agree(info(MORE), agreement, OwnerPolicy(), said.append, yes, tmp_path / "plan.json")
    assert agreement.agreed is None


def test_a_changed_plan_waits_for_the_owner(agreement, said):
    agreement.accept(TERMS)
    tell_offer(agreement.offer(MORE, OwnerPolicy()), agreement.state, said.append)
    assert agreement.agreed == TERMS
    assert agreement.offered == MORE
    (line,) = said
    assert "experts: rounds is 9, agreed was 3" in line
    assert f"client accept {agreement.state}" in line
    with pytest.raises(ConfigError, match="the plan of before holds"):
        accept(agreement.state, said.append, no)
    assert agreement.agreed == TERMS
    accept(agreement.state, said.append, yes)
    assert agreement.agreed == MORE
    assert not (agreement.state / OFFERED).exists()


def test_a_later_plan_can_be_pinned_too(agreement, said, tmp_path):
    agreement.accept(TERMS)
    (tmp_path / "plan.json").write_text(MORE.dump())
    agree(info(MORE), agreement, OwnerPolicy(), said.append, no, tmp_path / "plan.json")
    assert agreement.agreed == MORE


def test_an_offer_that_is_taken_back_waits_no_more(agreement, said):
    agreement.accept(TERMS)
    agreement.offer(MORE, OwnerPolicy())
    assert agreement.offer(TERMS, OwnerPolicy()) == []
    accept(agreement.state, said.append, yes)
    assert said == ["no plan waits for your word"]
    assert agreement.agreed == TERMS


def test_a_standing_rule_accepts_what_is_inside_its_bounds(agreement):
    agreement.accept(TERMS)
    assert agreement.offer(MORE, OwnerPolicy(consent="bounds")) == []
    assert agreement.agreed == MORE
    assert agreement.offer(GREEDY, OwnerPolicy(consent="bounds"))
    assert agreement.agreed == MORE


def test_without_a_terminal_consent_is_given_by_an_option(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(ConfigError, match="--yes"):
        asker(yes=False)("?")
    assert asker(yes=True)("?")


def test_a_coordinator_that_tells_no_plan(agreement, said):
    with pytest.raises(ConfigError, match="not one of this version"):
        agree(FederationInfo("fed", "base"), agreement, OwnerPolicy(), said.append, yes)
