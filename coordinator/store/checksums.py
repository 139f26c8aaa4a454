"""Finds flipped bits in SQLite's values by a sum over the rows of each table, kept by triggers.

SQLite checks the structure of its pages, not the values. Each table has a row in `checksums` with
the sum of its rows' hashes, and each change of a row updates the sum in the same transaction.
PostgreSQL has its own checksums.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, MetaData, Table, text

NAME = "checksums"
FUNCTION = "row_hash"
CHANGES = ""
"""Name of the row that counts the changes of all tables."""
_MASK = (1 << 48) - 1
"""Sums stay below 48 bits, so that SQLite never converts them to floats."""


def register(connection: Any) -> None:
    """Register the function that the triggers call with a connection of `sqlite3`."""
    connection.create_function(FUNCTION, -1, row_hash, deterministic=True)


def row_hash(*values: Any) -> int:
    """Hash a row's values (None, numbers, texts, bytes) to a number below 2^48."""
    found = hashlib.blake2b(digest_size=6)
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode()
        found.update(f"{type(value).__name__}{len(data)}:".encode())
        found.update(data)
    return int.from_bytes(found.digest(), "big")


def install(connection: Connection, metadata: MetaData) -> None:
    """Install the triggers, starting with the sums of the existing rows."""
    connection.execute(
        text(f"CREATE TABLE IF NOT EXISTS {NAME} (of TEXT PRIMARY KEY, sum INTEGER NOT NULL)")
    )
    known = set(connection.scalars(text(f"SELECT of FROM {NAME}")))  # noqa: S608 - our own name
    for table in metadata.sorted_tables:
        if table.name not in known:
            _watch(connection, table)
    if CHANGES not in known:
        _count(connection)


def changes(connection: Connection) -> int:
    """Number of rows changed since the installation; it never decreases."""
    query = text(f"SELECT sum FROM {NAME} WHERE of = :of")  # noqa: S608 - our own name
    return int(connection.scalar(query, {"of": CHANGES}) or 0)


def check(connection: Connection, metadata: MetaData) -> str:
    """Name of the first table whose rows do not match its sum; empty if all match."""
    rows = connection.execute(text(f"SELECT of, sum FROM {NAME}"))  # noqa: S608 - our own name
    kept: dict[str, int] = {row.of: row.sum for row in rows}
    for table in metadata.sorted_tables:
        if kept.get(table.name) != _sum(connection, table):
            return table.name
    return ""


def _sum(connection: Connection, table: Table) -> int:
    rows = connection.exec_driver_sql(f"SELECT {_columns(table)} FROM {_quoted(table.name)}")  # noqa: S608
    return sum(row_hash(*row) for row in rows) & _MASK


def _watch(connection: Connection, table: Table) -> None:
    now = {"of": table.name, "sum": _sum(connection, table)}
    connection.execute(text(f"INSERT INTO {NAME} VALUES (:of, :sum)"), now)  # noqa: S608
    old, new = (f"{FUNCTION}({_columns(table, of)})" for of in ("OLD.", "NEW."))
    for event, change in {
        "INSERT": f"+ {new}",
        "DELETE": f"- {old}",
        "UPDATE": f"- {old} + {new}",
    }.items():
        connection.exec_driver_sql(
            f"CREATE TRIGGER {_quoted(f'sum_{table.name}_{event}')} AFTER {event} "  # noqa: S608
            f"ON {_quoted(table.name)} BEGIN "
            f"UPDATE {NAME} SET sum = (sum {change}) & {_MASK} WHERE of = '{table.name}'; END"
        )


def _count(connection: Connection) -> None:
    connection.execute(text(f"INSERT INTO {NAME} VALUES (:of, 0)"), {"of": CHANGES})  # noqa: S608
    connection.exec_driver_sql(
        f"CREATE TRIGGER count_changes AFTER UPDATE ON {NAME} WHEN NEW.of != '{CHANGES}' "  # noqa: S608
        f"BEGIN UPDATE {NAME} SET sum = sum + 1 WHERE of = '{CHANGES}'; END"
    )


def _columns(table: Table, of: str = "") -> str:
    return ", ".join(f"{of}{_quoted(column.name)}" for column in _sorted(table))


def _sorted(table: Table) -> Sequence[Any]:
    return sorted(table.columns, key=lambda column: str(column.name))


def _quoted(name: str) -> str:
    return f'"{name}"'
