"""Where versions of experts come from, signed: records, their verification, and what is kept."""
