"""How an owner agrees to a federation's plan: at `client join`, and later with `client accept`."""

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from fedmore.client.owner.agreement import Agreement, check_bounds, read_plan
from fedmore.client.owner.policy import OwnerPolicy, read_policy
from fedmore.experts.errors import ConfigError, WireError
from fedmore.protos.enrolment.federation_info import FederationInfo
from fedmore.strategies.stages.expert import FactorStage
from fedmore.strategies.terms import Terms, changes, read_terms, rows

Say = Callable[[str], None]
Ask = Callable[[str], bool]
QUESTION = "Let this machine do that with your text?"
TWO_OWNERS = (
    "  note:      if one other owner trains the same expert, each of you can work out the other's "
    "updates from the sum; with more, only their sum"
)


def policy_of(
    path: Path | None, codecs: tuple[str, ...] = (), min_tokens: int | None = None
) -> OwnerPolicy:
    """The owner's policy: the file, with what the command line says in its place."""
    policy = read_policy(path) if path else OwnerPolicy()
    if codecs:
        policy = replace(policy, codecs=codecs)
    return policy if min_tokens is None else replace(policy, min_tokens=min_tokens)


def agree(
    info: FederationInfo,
    agreement: Agreement,
    policy: OwnerPolicy,
    say: Say,
    ask: Ask,
    pinned: Path | None = None,
) -> None:
    """Have the owner agree to the federation's plan, unless that is done already.

    A plan in the file `pinned` is agreed to if it is the federation's; otherwise the owner is
    shown the plan and asked. Raises `ConfigError` for another plan or without consent, and
    `EgressError` for a plan out of the policy's bounds.
    """
    terms = terms_in(info, agreement.plugins)
    if pinned is not None and (given := read_plan(pinned, agreement.plugins)) != terms:
        found = "; ".join(changes(given, terms))
        raise ConfigError(f"{pinned}: the federation's plan is another one: {found}")
    if agreement.agreed == terms:
        return
    if agreement.agreed is not None and pinned is None:
        tell_offer(agreement.offer(terms, policy), agreement.state, say)
        return
    check_bounds(terms, policy)
    show(terms, say)
    if pinned is None and policy.consent == "plan" and not ask(QUESTION):
        raise ConfigError("you did not agree to the plan; nothing was sent and the invite is good")
    agreement.accept(terms)


def agree_again(
    info: FederationInfo,
    agreement: Agreement,
    policy: OwnerPolicy,
    say: Say,
    ask: Ask,
    pinned: Path | None = None,
) -> None:
    """Have an owner who agreed to a plan that is over agree to the one that came after it.

    Raises as `agree` does.
    """
    terms = terms_in(info, agreement.plugins)
    check_bounds(terms, policy)
    if pinned is not None:
        agree(info, agreement, policy, say, ask, pinned)
    elif agreement.offer(terms, policy):
        accept(agreement.state, say, ask)


def accept(state: Path, say: Say, ask: Ask) -> None:
    """Show the plan that waits in a state folder, and keep it if the owner agrees."""
    agreement = Agreement(state)
    offered, agreed = agreement.offered, agreement.agreed
    if offered is None:
        say("no plan waits for your word")
        return
    show(offered, say)
    for line in changes(agreed, offered) if agreed else ():
        say(f"  changed: {line}")
    if not ask(QUESTION):
        raise ConfigError("you did not agree; the plan of before holds")
    agreement.accept(offered)
    say("agreed; a client that runs goes by it from its next task on")


def terms_in(info: FederationInfo, plugins: Collection[str] = ()) -> Terms:
    """The plan that a federation tells; raises `ConfigError` if it tells none that can be read.

    `plugins` are those that the owner has allowed.
    """
    try:
        return read_terms(info.plan, plugins)
    except WireError as error:
        raise ConfigError(f"{info.name}: {error}") from error


def tell_offer(lines: list[str], state: Path, say: Say) -> None:
    """Say what waits for the owner's word, if anything does."""
    if lines:
        say(
            f"the plan has changed ({'; '.join(lines)}); its new tasks are refused until you say "
            f"`client accept {state}`"
        )


def show(terms: Terms, say: Say) -> None:
    """The plan in a line for each stage."""
    say("this federation asks of your text:")
    for kind, line in rows(terms):
        say(f"  {kind + ':':<11}{line}")
    if any(isinstance(stage, FactorStage) for stage in terms.stages):
        say(TWO_OWNERS)


def asker(yes: bool) -> Ask:
    """Ask at the terminal, or take `--yes` for the answer; raises `ConfigError` without either."""

    def ask(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigError(
                "the plan needs your consent and there is no terminal to ask at: give --yes, or "
                "the plan itself as --plan FILE (`client plan INVITE --out FILE`)"
            )
        import typer

        return typer.confirm(question)

    return ask
