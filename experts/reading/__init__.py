"""How an owner's files become documents: which files, their encodings, formats and columns."""
