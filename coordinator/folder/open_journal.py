"""Opens the journal of a federation's tasks over its registry and store."""

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.tasks.journal import Journal
from fedmore.protos.wire.records import OUR_CONTENT

APP_GROUP = "app"
"""The journal's group for an external app's messages, which name no group."""


def open_journal(federation: Federation) -> Journal:
    """Open the federation's journal, which also holds an external app's messages."""
    registry = federation.registry
    app, limit = federation.config.federation.app, federation.config.server.content_bytes
    group, limit = (APP_GROUP, limit) if app else ("", OUR_CONTENT)
    return Journal(registry.database, federation.store, registry.digests, group, limit)
