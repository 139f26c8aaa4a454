"""How long is waited between tries, and for how long it is tried."""

import threading

import pytest

from fedmore.client.transport.retry import Backoff, persist
from fedmore.experts.errors import DataError, PeerError, TransportError

LOST = TransportError("lost")


def make_patience(limit_s=100.0, jitter=1.0):
    now = [0.0]
    return Backoff(limit_s, clock=lambda: now[0], jitter=lambda: jitter), now


def test_delays_double_up_to_a_limit():
    patience, _ = make_patience()
    assert [patience.next_delay(LOST) for _ in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]


def test_delays_are_jittered():
    assert make_patience(jitter=0.0)[0].next_delay(LOST) == 0.1


def test_patience_ends_and_says_so():
    patience, now = make_patience(limit_s=5)
    now[0] = 4.9
    assert patience.next_delay(LOST) == pytest.approx(0.1)
    now[0] = 5.0
    with pytest.raises(TransportError, match="lost; gave up after 5 s"):
        patience.next_delay(LOST)


def test_after_weeks_of_work_the_limit_counts_from_the_loss():
    patience, now = make_patience(limit_s=5)
    patience.reset()
    now[0] = 1e6
    assert patience.next_delay(LOST) == 0.2
    now[0] += 4.9
    patience.next_delay(LOST)
    now[0] += 0.2
    with pytest.raises(TransportError):
        patience.next_delay(LOST)


def test_what_works_for_a_moment_only_is_not_tried_ever_faster():
    patience, now = make_patience()
    for expected in (0.2, 0.4, 0.8):
        assert patience.next_delay(LOST) == expected
        patience.reset()
        now[0] += 9.9
    patience.reset()
    now[0] += 10.0
    assert patience.next_delay(LOST) == 0.2


def test_persist_tries_again_only_what_may_work():
    tries = []

    def action():
        tries.append(1)
        raise LOST if len(tries) < 3 else DataError("no")

    with pytest.raises(DataError):
        persist(action, 10, threading.Event())
    assert len(tries) == 3


def test_persist_does_not_try_a_wrong_peer_again():
    tries = []

    def action():
        tries.append(1)
        raise PeerError("another version")

    with pytest.raises(PeerError):
        persist(action, 10, threading.Event())
    assert len(tries) == 1


def test_persist_stops_when_told():
    stopped = threading.Event()
    stopped.set()

    def action():
        raise LOST

    with pytest.raises(TransportError, match="lost"):
        persist(action, 10, stopped)
