"""How much of the disk uploads may take: of one member's, and of all that are on their way.

Counted as a member's are its unfinished uploads and those that no reply of it names yet.
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
"""A partial upload that nobody has gone on with for so long is removed."""

UNFINISHED = 64
"""So many files of unfinished uploads may a member leave."""


@dataclass(frozen=True)
class Room:
    """`spare` bytes stay free on the disk; of the rest a member may take the part `share`."""

    spare: int
    share: float


@dataclass(frozen=True)
class Quota:
    """Of the partial uploads in `incoming` and the store's disk; blocks, so call it in a thread."""

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
        """Raise `WireError` if `partial` beside the node's `others` would be above `limit`.

        Raises `StoreError` if the node would have more than its share of the room on the disk.
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
        if most < held + partial.size <= held + free:  # above that, `check_room` says it better
            raise StoreError(
                f"an upload of {partial.size} bytes beside the {held} of yours is more than a "
                f"member's share of the disk, {max(0, most)} bytes"
            )

    def check_room(self, wanted: int, reserved: int, spare: int) -> None:
        """Raise `StoreError` unless `wanted` bytes fit beside `reserved` ones, `spare` being left.

        Reserved is what other uploads have announced and not written yet.
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
        """Remove partial uploads that nobody has gone on with for `older_s` seconds."""
        for path in self.incoming.glob("*-*"):
            if path.stat().st_mtime < time.time() - older_s:
                path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file; of one that is gone meanwhile, none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
