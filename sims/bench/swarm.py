"""Many clients in one process: connected and idle, or all uploading at once.

`python -m fedmore.sims.bench.swarm idle|upload FOLDER [SIZE]` takes the invites in FOLDER, enrols
with each, says `ready`, waits for a line on its input, works, and says `done`.
"""

import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from fedmore.client.invite import Identity, enrol
from fedmore.client.outbox import Outbox
from fedmore.client.rpc import Link
from fedmore.protos import federation_pb2 as pb
from fedmore.protos.invite import read_invite

AT_ONCE = 25
"""So many connect at a time: all at once they would wait for each other's handshakes."""


def main() -> None:
    """What the command line says."""
    work, folder = sys.argv[1], Path(sys.argv[2])
    invites = sorted(folder.glob("*.json"))
    with ThreadPoolExecutor(8) as pool:
        identities = list(pool.map(_enrolled, invites))
    links = [identity.link() for identity in identities]
    if work == "idle":
        _idle(links)
    else:
        _upload(links, identities, int(sys.argv[3]))
    for link in links:
        link.close()


def _enrolled(invite: Path) -> Identity:
    state = invite.with_suffix("")
    return enrol(read_invite(invite), state, kind="app", target="", rank=0)


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def _idle(links: list[Link]) -> None:
    outboxes: list[Outbox] = []
    for start in range(0, len(links), AT_ONCE):
        batch = [_connected(link) for link in links[start : start + AT_ONCE]]
        for outbox, welcomed in batch:
            if not welcomed.wait(120.0):
                raise TimeoutError("a client was not welcomed")
            outboxes.append(outbox)
    _say("ready")
    sys.stdin.readline()
    for outbox in outboxes:
        outbox.leave("the bench is over")
    _say("done")


def _connected(link: Link) -> tuple[Outbox, threading.Event]:
    outbox, welcomed = Outbox(pb.Hello(session=secrets.token_hex(8))), threading.Event()
    threading.Thread(target=_listen, args=(link, outbox, welcomed), daemon=True).start()
    return outbox, welcomed


def _listen(link: Link, outbox: Outbox, welcomed: threading.Event) -> None:
    for event in link.connect(outbox):
        if event.WhichOneof("event") == "welcome":
            outbox.beat(event.welcome.heartbeat_s)
            welcomed.set()


def _upload(links: list[Link], identities: list[Identity], size: int) -> None:
    blobs = [identity.name.encode().ljust(64, b".") * (size // 64) for identity in identities]
    digests = [sha256(blob).hexdigest() for blob in blobs]
    for link in links:
        link.describe()
    _say("ready")
    sys.stdin.readline()
    threads = [
        threading.Thread(target=link.upload, args=(digest, blob))
        for link, digest, blob in zip(links, digests, blobs, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _say("done")


if __name__ == "__main__":
    main()
