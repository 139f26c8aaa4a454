"""The demo: two owners of legal text, one of medical text, one of Galician; SmolLM2-135M."""

from fedmore.client.hardware.device import cores
from fedmore.sims.scenarios.packages import package_base, package_text
from fedmore.sims.scenarios.scenario import ClientSpec, Scenario

_SHARED = {
    "steps": 6, "batch_size": 4, "sequence_length": 128, "learning_rate": 2e-3,
}  # fmt: skip

_THREADS = max(1, cores() // 3)  # three experts train at once, the language alone
_CONFIG: dict[str, object] = {
    "federation": {
        "name": "quickstart",
        "seed": 0,
        "clients": 4,
        "domains": ["legal", "medical"],
        "languages": ["gl"],
    },
    "base": {"dtype": "auto"},  # bfloat16 where the processor multiplies it
    "server": {"port": 0},
    "stages": [
        {"kind": "experts", "rounds": 3, "codec": "sign1", "threads": _THREADS, **_SHARED},
        {"kind": "language", "rounds": 3, "codec": "sign1", "threads": cores(), **_SHARED},
        {"kind": "router"},
    ],
    "router": {"kind": "domain", "top_k": 3},
    "evaluation": {"documents": 48, "tokens": 48},
}


def quickstart() -> Scenario:
    """Three stages of 3, 3 and 1 rounds; every update one bit per number."""
    return Scenario(
        name="quickstart",
        description="Two legal halves (rank 4, 16), medical (32), Galician (8); SmolLM2-135M",
        config=_CONFIG,
        clients=(
            ClientSpec("legal-a", "expert", "legal", 4, "legal", part=0, parts=2),
            ClientSpec("legal-b", "expert", "legal", 16, "legal", part=1, parts=2),
            ClientSpec("medical", "expert", "medical", 32, "medical"),
            ClientSpec("galician", "adapter", "gl", 8, "galician"),
        ),
        evaluation={
            "legal": "legal",
            "medical": "medical",
            "gl": "galician",
            "code": "code",
            "plain": "plain",
        },
        base=package_base,
        text=package_text,
    )
