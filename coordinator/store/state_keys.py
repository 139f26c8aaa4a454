"""The keys under which the registry keeps state, and the values of those that are one of a few."""

OPERATORS = "operators"
"""State key: what is known of each operator's certificate, by the operator's name."""

EMBEDDINGS = "embeddings"
"""Registry key: digest of the blob with every client's domain embedding."""

ROUTER = "router"
"""Registry key: digest of the router that the clients trained; missing if they trained none."""

FORGETTING = "forgetting"
"""Registry key: one entry a finished stage."""

PORT = "port"
"""State key of the port that the last `coordinator start` listened on."""

SCHEMA = "schema"
"""State key: the version of the tables."""

STORE_ID = "store"
"""State key: the id that the store has in its file."""

RECOVERY = "recovery"
"""State: by kind of stage the number of `rounds` beyond those
`planned`, and whose `experts` they are for."""

RECOVERY_ASKED = "recovery_asked"
"""State: the rounds that the operator asked for, for a coordinator that runs to read."""

DISMISSED = "dismissed"
"""State: the clients of a finished federation were told so."""

EVALUATION_DIGEST = "evaluation"
"""State key: digest of the file."""

PHASE = "phase"

NEW, WAITING, RUNNING, INTERRUPTED, FAILED, FINISHED = (
    "new", "waiting", "running", "interrupted", "failed", "finished",
)  # fmt: skip
"""Values of the state `phase`."""

FAILURE = "failure"
"""State: why the last start failed; None if it was stopped."""

SKIPPED = "skipped"
"""State: the kinds of stages that ended early because nobody was left, each with the reason."""

LEFT_OUT = "left_out"
"""State: the experts that the mixture is made without, each with the reason."""

HELD = "held_back"
"""State: by expert why it is held back after a withdrawal, and its `scores` then."""

WITHDRAWALS_BEGUN = "withdrawals_begun"
"""State: `owners` whose part a command was to take out, and the `experts` that had one then."""
