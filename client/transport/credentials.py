"""What a connection to the coordinator is made with."""

from dataclasses import dataclass, field

from fedmore.protos.enrolment.invite import Invite


@dataclass(frozen=True)
class Keys:
    """What a connection is made with, all PEM: whom to trust, and who this is."""

    ca: str
    certificate: str
    key: str = field(repr=False)


def invite_keys(invite: Invite) -> Keys | None:
    """What an invite is called with until it has been used; None for one without TLS."""
    if invite.ca is None or invite.certificate is None or invite.key is None:
        return None
    return Keys(invite.ca, invite.certificate, invite.key)
