"""How far an owner's text has been trained on."""

import json
from dataclasses import asdict, dataclass, field

from fedmore.experts.text.windows import Place


@dataclass(frozen=True)
class Reading:
    """How far an owner's text has been trained on: `epochs` of it so far.

    `key` names the text and how it is cut into windows: `place` is of no other. It is on disk with
    the answer that it led to, so a task that is lost or done again does not move it.
    """

    key: str = ""
    place: Place = field(default_factory=Place)
    epochs: float = 0.0

    def dump(self) -> str:
        """The position as a value for JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> "Reading":
        """The inverse of `dump`."""
        table = json.loads(text)
        return cls(table["key"], Place(**table["place"]), table["epochs"])
