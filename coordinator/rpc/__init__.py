"""The coordinator's end of the wire: `server.serve` is the way in."""
