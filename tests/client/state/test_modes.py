"""What a client keeps is its owner's alone, whatever the umask and whoever made the folder."""

import os
import stat
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict

from fedmore.client.egress.audit_log import Audit
from fedmore.client.identity.keys import own_key
from fedmore.client.state import app_memory
from fedmore.client.state.memory import Embedding, Memory
from fedmore.client.training.checkpoint import Checkpoints, Position

pytestmark = pytest.mark.usefixtures("open_umask")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_state_folder_is_closed_to_others_and_so_is_each_file(tmp_path):
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    with Audit(state) as audit:
        audit.record("hello", 1)
        own_key(state)
        memory = Memory(state / "node-1")
        memory.give(Embedding((1, 2, 3), torch.zeros(2), 1, 2))
        checkpoints = Checkpoints(memory.checkpoint("legal"))
        checkpoints.write("key", Position(1, [0.5], {"w": torch.zeros(2)}))
        app_memory.Memory(state / "app").write("t", RecordDict(), RecordDict())
    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {mode(path) for path in files} == {0o600}
    assert {mode(path) for path in (state, *state.iterdir()) if path.is_dir()} == {0o700}


def test_a_component_is_on_disk_before_it_is_used(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def fsync(handle):
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    memory = Memory(tmp_path / "state")
    monkeypatch.setattr(os, "fsync", fsync)
    memory.give(Embedding((1, 2, 3), torch.zeros(2), 1, 2))
    assert synced[-1] == str(memory.directory)
