"""What `coordinator status` says of an expert's ranks and their cuts."""

import pytest

from fedmore.coordinator.monitor.status import limits_line

KEPT = {"rank": 128, "summed_rank": 1600, "aggregation_error": 0.25, "stored_bytes": 4 << 20}
SENT = {
    "broadcast_rank": 32, "broadcast_error": 0.5, "download_bytes_per_owner": 1 << 20,
    "download_bytes": 100 << 20,
}  # fmt: skip


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, []),
        ({"rank": 4, "aggregation_error": 0.0}, []),
        (KEPT, ["legal: kept rank 128 of 1600, error 2.5e-01"]),
        (KEPT | SENT, ["kept rank 128 of 1600", "sent rank 32, error 5.0e-01", "an owner", "all"]),
    ],
)
def test_every_cut_is_said_with_its_cost(told, said):
    line = limits_line("legal", told)
    assert all(part in line for part in said)
    assert bool(line) == bool(said)
    assert ("sent" in line) == ("broadcast_rank" in told)
