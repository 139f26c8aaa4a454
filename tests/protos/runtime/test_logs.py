"""A program's log: with times, private, and of limited size."""

import asyncio
import logging
import re

from fedmore.protos.runtime import logs
from fedmore.protos.runtime.logs import TOLD, also, logged


def test_lines_have_a_time_and_others_have_no_access(tmp_path):
    path = tmp_path / "client.log"
    before = logging.getLogger("fedmore").handlers[:]
    heard = []
    with logged(path) as log:
        also(log, heard.append)("connected")
        logging.getLogger("fedmore.client.session.worker").warning("task failed")
    logging.getLogger("fedmore").warning("after it")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT[\d:.]{12}Z INFO connected\n\S+ WARNING task failed\n", path.read_text()
    )
    assert heard == ["connected"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert logging.getLogger("fedmore").handlers == before


def test_it_does_not_grow_without_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "SIZE", 1000)
    with logged(tmp_path / "x.log") as log:
        for _ in range(200):
            log.info("x" * 100)
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + logs.FILES
    assert sum(f.stat().st_size for f in files) <= 4 * 1000


def test_what_was_told_and_what_libraries_say_is_for_the_file_alone(tmp_path, capsys):
    path, library = tmp_path / "x.log", logging.getLogger("grpc._cython.cygrpc")
    before = logging.getLogger("grpc").handlers[:]
    with logged(path) as log:
        log.warning("shown to the operator anyway", extra=TOLD)
        log.warning("shown by nobody else")
        library.error("a callback failed")
        try:
            raise asyncio.CancelledError
        except asyncio.CancelledError:
            library.exception("RPC cancelled")
    assert capsys.readouterr().err == "shown by nobody else\n"
    said = [line.split(" ", 2)[2] for line in path.read_text().splitlines()]
    assert said == ["shown to the operator anyway", "shown by nobody else", "a callback failed"]
    assert logging.getLogger("grpc").propagate
    assert logging.getLogger("grpc").handlers == before
