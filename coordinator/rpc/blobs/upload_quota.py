"""Limits the disk space of uploads, per member and for all unfinished uploads.

A member's share counts its unfinished uploads, and blobs that no reply of it names yet.
"""

import shutil
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fedmore.coordinator.rpc.blobs.upload_file import Partial
from fedmore.coordinator.tasks.blob_references import BlobReferences
from fedmore.experts.errors import StoreError, WireError
from fedmore.protos.system.files import private_folder

STALE_S = 3_600.0
"""Seconds after which a partial upload without progress is removed."""

UNFINISHED = 64
"""Most unfinished uploads of a member."""


@dataclass(frozen=True)
class Room:
    """`spare` bytes of the disk stay free; a member may use the fraction `share` of the rest."""

    spare: int
    share: float


@dataclass(frozen=True)
class Quota:
    """The limits for partial uploads in `incoming`. It blocks, so call it in a thread."""

    incoming: Path
    ledger: BlobReferences

    def check_member(
        self,
        node_id: int,
        partial: Partial,
        others: Collection[Partial],
        limit: int,
        room: Room,
    ) -> None:
        """Raise `WireError` if `partial` and the node's `others` together exceed `limit` bytes.

        Raises `StoreError` if they exceed the node's share of the disk.
        """
        running = {each.path for each in (partial, *others)}
        left = [p for p in self.incoming.glob(f"{node_id}-*") if p not in running]
        if len(left) >= UNFINISHED:
            raise WireError(f"{len(left)} of your uploads are unfinished; resume one of them")
        unnamed, every = self.ledger.unnamed(node_id, partial.path.name.rpartition("-")[2])
        more = sum(size_of(path) for path in left) + sum(each.size for each in others)
        self._check_share(every + more, partial, room)
        held = unnamed + more
        if held + partial.size > limit:
            raise WireError(
                f"an upload of {partial.size} bytes beside the {held} that no reply of yours names "
                f"is above the limit of {limit} (server.upload_bytes)"
            )

    def _check_share(self, held: int, partial: Partial, room: Room) -> None:
        private_folder(self.incoming)
        free = shutil.disk_usage(self.incoming).free - room.spare
        most = int(room.share * (free + held))
        if most < held + partial.size <= held + free:  # above, `check_room` has the better message
            raise StoreError(
                f"an upload of {partial.size} bytes beside the {held} of yours is more than a "
                f"member's share of the disk, {max(0, most)} bytes"
            )

    def check_room(self, wanted: int, reserved: int, spare: int) -> None:
        """Raise `StoreError` unless `wanted` and `reserved` bytes fit and `spare` bytes remain.

        `reserved` is what other uploads have announced and not written yet.
        """
        private_folder(self.incoming)
        if wanted + spare + reserved > shutil.disk_usage(self.incoming).free:
            self.ledger.store.empty_trash(older_s=0)
        free = shutil.disk_usage(self.incoming).free - reserved
        if wanted + spare > free:
            raise StoreError(f"no room for {wanted} bytes: {max(0, free)} are free on the disk")

    def remove_of(self, node_id: int) -> None:
        """Remove every partial upload of a node."""
        for path in self.incoming.glob(f"{node_id}-*"):
            path.unlink(missing_ok=True)

    def remove_stale(self, older_s: float = STALE_S) -> None:
        """Remove partial uploads without progress for `older_s` seconds."""
        for path in self.incoming.glob("*-*"):
            if path.stat().st_mtime < time.time() - older_s:
                path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Size of a file; 0 if it was removed meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
