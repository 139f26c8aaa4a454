"""The coordinator's end of the wire; `server.serve` starts it."""
