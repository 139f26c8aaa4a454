"""Checks database URLs and converts them for SQLAlchemy."""

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from fedmore.experts.errors import ConfigError


def sqlite_url(path: Path, driver: str = "sqlite") -> str:
    """URL of a SQLite file, for paths with any characters."""
    return URL.create(driver, database=str(path.absolute())).render_as_string()


def check_url(url: str) -> None:
    """Raise `ConfigError` unless it is a PostgreSQL URL without a password."""
    try:
        parts = make_url(url)
    except ArgumentError as error:
        raise ConfigError(f"server.database: {error}") from error
    if parts.password is not None:
        raise ConfigError(
            "server.database holds a password; leave it out and use PGPASSWORD or ~/.pgpass"
        )
    if parts.get_backend_name() not in ("postgresql", "sqlite"):
        raise ConfigError(f"server.database: {parts.get_backend_name()} is not postgresql")
