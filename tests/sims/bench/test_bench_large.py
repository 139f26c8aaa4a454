"""An update far above any message, between real programs: memory, and messages' sizes."""

import pytest

from fedmore.sims.bench.large import exchange

MIB = 1 << 20


@pytest.mark.slow
def test_neither_end_holds_an_update_in_memory(tmp_path):
    found = exchange(tmp_path, 256 * MIB)
    assert 0 < found.coordinator_extra < 64 * MIB
    assert 0 < found.client_extra < 64 * MIB
