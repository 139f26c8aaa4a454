"""The journal of a federation's tasks, opened over its registry and its store."""

from fedmore.coordinator.folder.federation import Federation
from fedmore.coordinator.tasks.journal import Journal
from fedmore.protos.wire.records import OUR_CONTENT

APP_GROUP = "app"
"""The journal's group of an external app's messages that name none: all that it sends."""


def open_journal(federation: Federation) -> Journal:
    """The federation's journal; an external app's messages, which name no group, are in it too."""
    registry = federation.registry
    app, limit = federation.config.federation.app, federation.config.server.content_bytes
    group, limit = (APP_GROUP, limit) if app else ("", OUR_CONTENT)
    return Journal(registry.database, federation.store, registry.digests, group, limit)
