"""The sections of `federation.toml` beside its stages and its router."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from fedmore.coordinator.config.fields import Host, Name, Reachable
from fedmore.experts.errors import ConfigError
from fedmore.experts.names import check_targets
from fedmore.experts.text.opener import AUTO
from fedmore.protos.enrolment.federation_info import fault_of
from fedmore.strategies.settings import STRICT, not_negative, positive


@dataclass(frozen=True, config=STRICT)
class FederationSection:
    """Its name, who may train what, and when the plan begins.

    With an `app` it is a federation for somebody else's Flower ServerApp, which is given
    `run_config`; it has no base, stages, router and evaluation of ours.
    """

    name: Annotated[Name, Field(description="shown to clients, and part of their state folder")]
    seed: Annotated[int, Field(description="of everything random")] = 0
    clients: Annotated[
        int, Field(description="number of clients that must be connected when the plan begins")
    ] = 2
    domains: Annotated[
        tuple[Name, ...],
        Field(description="what may be trained as an expert: client join --domain"),
    ] = ()
    languages: Annotated[
        tuple[Name, ...],
        Field(description="what may be trained as an adapter: client join --language"),
    ] = ()
    app: Annotated[
        str,
        Field(description="module:object of another's Flower ServerApp; empty for the stages"),
    ] = ""
    run_config: Annotated[
        dict[Name, bool | float | int | str],
        Field(description="what the app is given as its run config"),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """A federation has at least one client, and all that is trained a name of its own."""
        positive(clients=self.clients)
        if fault := fault_of(self.run_config):
            raise ValueError(f"run_config {fault}")
        try:
            check_targets((*self.domains, *self.languages))
        except ConfigError as error:
            raise ValueError(f"domains, languages: {error}") from error


@dataclass(frozen=True, config=STRICT)
class BaseSection:
    """The frozen public model, the same at every client, and what opens its documents."""

    model: Annotated[str, Field(description="a folder, or a name on the Hugging Face hub")] = ""
    fingerprint: Annotated[
        str, Field(description="digest of its weights; a client whose base differs is refused")
    ] = ""
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Field(description="type of its weights in memory; auto: as they are stored"),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "nf4"], Field(description="none, or nf4 (4 bits, by bitsandbytes)")
    ] = "none"
    opener: Annotated[
        str,
        Field(description="token that opens a document, or none; auto: init measures which"),
    ] = AUTO
    open_windows: Annotated[
        bool, Field(description="whether it also opens windows that begin inside a document")
    ] = False


@dataclass(frozen=True, config=STRICT)
class ServerSection:
    """Where the coordinator listens, and how long it waits for a client that is silent."""

    host: Annotated[Host, Field(description="address to listen on; 0.0.0.0 for every network")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Field(ge=0, le=65535, description="0 takes a free one")] = 8470
    advertise: Annotated[
        Reachable, Field(description="host that invites name, and that the certificate is for")
    ] = "127.0.0.1"
    heartbeat_s: Annotated[
        float, Field(description="seconds between two signs of life of a client")
    ] = 2.0
    heartbeat_timeout_s: Annotated[
        float, Field(description="seconds of silence after which a client counts as gone")
    ] = 30.0
    rejoin_timeout_s: Annotated[
        float,
        Field(description="seconds that a plan in progress waits for its clients after a restart"),
    ] = 60.0
    upload_bytes: Annotated[
        int,
        Field(description="most bytes of a client that no answer names yet; experts are large"),
    ] = 32 << 30
    content_bytes: Annotated[
        int,
        Field(description="most bytes of an answer to a Flower app, without arrays over 64 KiB"),
    ] = 64 << 20
    database: Annotated[
        str,
        Field(
            description="SQLAlchemy URL without a password, as postgresql+psycopg://user@host/name;"
            " empty for registry.db in the folder"
        ),
    ] = ""

    def __post_init__(self) -> None:
        """A client must have the time for more than one heartbeat."""
        positive(
            heartbeat_s=self.heartbeat_s,
            rejoin_timeout_s=self.rejoin_timeout_s,
            upload_bytes=self.upload_bytes,
            content_bytes=self.content_bytes,
        )
        if self.heartbeat_timeout_s < 2 * self.heartbeat_s:
            raise ValueError("heartbeat_timeout_s must be at least twice heartbeat_s")


@dataclass(frozen=True, config=STRICT)
class EvaluationSection:
    """Held-out text, on which the coordinator scores base, experts and mixture."""

    texts: Annotated[
        dict[Name, str],
        Field(description="name of a domain, language or other text = path"),
    ] = field(default_factory=dict)
    documents: Annotated[int, Field(description="number of documents of each text")] = 48
    tokens: Annotated[int, Field(description="most tokens of a document")] = 64


@dataclass(frozen=True, config=STRICT)
class GateSection:
    """Held-out text by which a new version of an expert is judged before it is promoted."""

    texts: Annotated[
        dict[Name, str],
        Field(
            description="name of a domain, language or imported expert = path; without, promoted"
        ),
    ] = field(default_factory=dict)
    margin: Annotated[
        float,
        Field(description="part of the promoted version's bits per byte by which it may be worse"),
    ] = 0.01

    def __post_init__(self) -> None:
        """A margin is no gain."""
        not_negative(margin=self.margin)


@dataclass(frozen=True, config=STRICT)
class WithdrawalSection:
    """What is done with an expert that is worse after an owner's withdrawal."""

    margin: Annotated[
        float,
        Field(description="part of its bits per byte by which an expert may be worse"),
    ] = 0.01
    when_worse: Annotated[
        Literal["scale", "recover", "hold", "keep"],
        Field(description="scale what is left by one factor; recover, hold it back or keep it"),
    ] = "scale"
    recovery_rounds: Annotated[
        int, Field(description="rounds of the remaining owners, if when_worse is recover")
    ] = 2

    def __post_init__(self) -> None:
        """A margin is no gain, and no round is no recovery."""
        not_negative(margin=self.margin)
        positive(recovery_rounds=self.recovery_rounds)
