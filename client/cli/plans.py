"""The commands of `client` about a plan: see it before joining, agree to a later one."""

from pathlib import Path
from typing import Annotated

import typer

from fedmore.protos.system.terminal import echo

Yes = Annotated[bool, typer.Option("--yes", help="Agree to the plan without being asked.")]


def plan(
    invite: Annotated[Path, typer.Argument(metavar="INVITE", help="The operator's invite.")],
    out: Annotated[
        Path | None, typer.Option(help="Write it here, for `client join --plan`.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="For an invite without TLS, on this machine only.")
    ] = False,
) -> None:
    """Show what a federation would do with your text; the invite stays good."""
    from fedmore.client.identity.enrolment import describe, read_invite
    from fedmore.client.joining.consent import show, terms_in
    from fedmore.protos.system.files import export

    terms = terms_in(describe(read_invite(invite), insecure=insecure))
    show(terms, say)
    if out is not None:
        export(out, terms.dump() + "\n")
        say(f"{out}: give it to `client join` as --plan")


def accept(
    where: Annotated[
        Path,
        typer.Argument(metavar="STATE|INVITE", help="The client's state folder, or its invite."),
    ],
    yes: Yes = False,
) -> None:
    """Show the plan that has changed since you agreed, and agree to it."""
    from fedmore.client.egress.audit_report import state_of
    from fedmore.client.joining import consent

    consent.accept(state_of(where), say, consent.asker(yes))


def say(text: str) -> None:
    """Print a line; what the coordinator says in it is obeyed by no terminal."""
    echo(text)
