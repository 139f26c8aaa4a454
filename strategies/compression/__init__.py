"""How an update becomes bytes: codecs and error feedback."""
