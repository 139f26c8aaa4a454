"""The federation of the routing study: three domains, two languages, and an untrained third."""

from fedmore.sims.scenarios.packages import package_base, package_text
from fedmore.sims.scenarios.scenario import ClientSpec, Scenario

_SHARED = {"steps": 6, "batch_size": 4, "sequence_length": 128, "learning_rate": 2e-3, "threads": 1}
_CONFIG: dict[str, object] = {
    "federation": {
        "name": "routing",
        "seed": 0,
        "clients": 5,
        "domains": ["legal", "medical", "code"],
        "languages": ["gl", "et"],
    },
    "base": {"dtype": "auto"},
    "server": {"port": 0},
    "stages": [
        {"kind": "experts", "rounds": 3, "codec": "sign1", **_SHARED},
        {"kind": "language", "rounds": 3, "codec": "sign1", **_SHARED},
        {"kind": "router"},
    ],
    "router": {"kind": "domain", "top_k": 2},
    "evaluation": {"documents": 4, "tokens": 64},
}


def routing() -> Scenario:
    """Legal (rank 16), medical (32), code (16); Galician and Estonian (8); Spanish is unseen."""
    return Scenario(
        name="routing",
        description="The routing study: five experts of SmolLM2-135M, every router, three seeds",
        config=_CONFIG,
        clients=(
            ClientSpec("legal", "expert", "legal", 16, "legal"),
            ClientSpec("medical", "expert", "medical", 32, "medical"),
            ClientSpec("code", "expert", "code", 16, "code"),
            ClientSpec("galician", "adapter", "gl", 8, "galician"),
            ClientSpec("estonian", "adapter", "et", 8, "estonian"),
        ),
        evaluation={
            "legal": "legal",
            "medical": "medical",
            "code": "code",
            "gl": "galician",
            "et": "estonian",
            "es": "spanish",
            "plain": "plain",
        },
        base=package_base,
        text=package_text,
    )
