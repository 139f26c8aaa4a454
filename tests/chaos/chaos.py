"""Real programs under random faults, for as long as one likes: the result is always the same.

    .venv/bin/python tests/chaos/chaos.py --minutes 60 [--seed N]

Each run is a federation from its first round to its last, with faults of a seeded schedule: what
the proxies do to connections, SIGSTOP, and kill -9 of either side. It has to finish, with the
digests of the undisturbed run. A failure says its seed, which repeats the schedule, not its
instants.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "support"))

from averaging import undisturbed
from programs import Federation, Program
from proxy import Proxy
from running import eventually

NODES, ROUNDS, PAUSE_S = 2, 8, 0.2
FAULTS = ("cut", "truncate", "half-close", "delay", "stop", "kill")
WEIGHTS = (5, 4, 4, 4, 3, 2)
CALM_S = 4.0
"""Longest time between two faults."""

RUN_S = 600.0
"""A run that takes longer hangs."""


class Chaos:
    """One run and its faults."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.federation = Federation(
            folder,
            NODES,
            ROUNDS,
            PAUSE_S,
            heartbeat_s=0.5,
            heartbeat_timeout_s=300.0,
            rejoin_timeout_s=300.0,
        )
        self.seed, self._random = seed, random.Random(seed)
        self.happened: Counter[str] = Counter()
        self._proxies = [Proxy(self.federation.port) for _ in range(NODES)]

    def run(self) -> list[str]:
        """The digests of a disturbed run."""
        federation = self.federation
        coordinator = federation.coordinate()
        clients = [federation.join(node, proxy.port) for node, proxy in enumerate(self._proxies)]
        began = time.monotonic()
        while not federation.digests():
            assert time.monotonic() - began < RUN_S, f"it hangs\n{self.story()}"
            time.sleep(self._random.uniform(0.2, CALM_S))
            if not federation.digests():
                self._disturb(coordinator, clients)
            self._revive(coordinator, clients)
        eventually(lambda: self._revive(coordinator, clients) == 0, RUN_S)
        return federation.digests()

    def _disturb(self, coordinator: Program, clients: list[Program]) -> None:
        kind = self._random.choices(FAULTS, WEIGHTS)[0]
        proxy, seconds = self._random.choice(self._proxies), self._random.uniform(0.2, 6.0)
        victim = self._random.choice([coordinator, *clients])
        self.happened[kind] += 1
        if kind in ("stop", "kill"):
            who = "coordinator" if victim is coordinator else "client"
            self.happened[f"{kind} {who}"] += 1
        if kind == "delay":
            proxy.delay(seconds)
        elif kind == "stop":
            victim.signal(signal.SIGSTOP)
            time.sleep(seconds)
            victim.signal(signal.SIGCONT)
        elif kind == "kill":
            victim.signal(signal.SIGKILL)
            victim.process.wait()
        else:
            getattr(proxy, kind.replace("-", "_"))()

    def _revive(self, coordinator: Program, clients: list[Program]) -> int:
        """Begin again who was killed; how many have not ended well yet."""
        codes = [each.process.poll() for each in (coordinator, *clients)]
        for program, code in zip((coordinator, *clients), codes, strict=True):
            if code == -signal.SIGKILL:
                program.begin()
            assert code in (None, 0, -signal.SIGKILL), f"ended with {code}\n{self.story()}"
        return sum(code != 0 for code in codes)

    def story(self) -> str:
        """What happened, and what everybody said last."""
        return f"seed {self.seed}: {dict(self.happened)}\n{self.federation.story()}"

    def close(self) -> None:
        """End everything."""
        self.federation.close()
        for proxy in self._proxies:
            proxy.close()


def run_for(seconds: float, seed: int, folder: Path) -> tuple[int, Counter[str]]:
    """Runs until the time is over, at least one; how many, and the faults of all."""
    expected, began, runs = undisturbed(NODES, ROUNDS), time.monotonic(), 0
    happened: Counter[str] = Counter()
    while not runs or time.monotonic() - began < seconds:
        place = folder / f"{seed + runs}"
        place.mkdir()
        chaos = Chaos(place, seed + runs)
        try:
            assert chaos.run() == expected, f"another result\n{chaos.story()}"
        finally:
            chaos.close()
        happened += chaos.happened
        runs += 1
    return runs, happened


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    given = parser.parse_args()
    say(f"seed {given.seed}, {given.minutes:g} minutes")
    with tempfile.TemporaryDirectory() as folder:
        runs, happened = run_for(given.minutes * 60, given.seed, Path(folder))
    say(f"{runs} runs, all with the digests of the undisturbed run; faults: {dict(happened)}")


def say(text: str) -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
