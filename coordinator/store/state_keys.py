"""The keys of the registry's states, and their possible values."""

OPERATORS = "operators"
"""State key: each operator's valid certificate, by name."""

EMBEDDINGS = "embeddings"
"""Registry key: digest of the blob with every client's domain embedding."""

IMPORTED = "imported_embeddings"
"""State: digest of the blob with the embeddings of experts that were imported."""

ROUTER = "router"
"""Registry key: digest of the router that the clients trained; missing if they trained none."""

FORGETTING = "forgetting"
"""Registry key: one entry per finished stage."""

PORT = "port"
"""State key of the port that the last `coordinator start` listened on."""

SCHEMA = "schema"
"""State key: the version of the tables."""

STORE_ID = "store"
"""State key: the id that registry and store share."""

RECOVERY = "recovery"
"""State: by kind of stage the number of `rounds` beyond those
`planned`, and whose `experts` they are for."""

RECOVERY_ASKED = "recovery_asked"
"""State: the recovery rounds that the operator asked for, for a running coordinator."""

DISMISSED = "dismissed"
"""State: whether the clients were told that the federation is finished."""

EVALUATION_DIGEST = "evaluation"
"""State key: digest of the file."""

RANKS = "ranks/"
"""Prefix of a state key, before a member's name: the pattern of its ranks, if it has one."""

PHASE = "phase"

NEW, WAITING, RUNNING, INTERRUPTED, FAILED, FINISHED = (
    "new", "waiting", "running", "interrupted", "failed", "finished",
)  # fmt: skip
"""Values of the state `phase`."""

FAILURE = "failure"
"""State: why the last start failed; None if it was stopped."""

SKIPPED = "skipped"
"""State: the kinds of stages that ended early because no client was left, with reasons."""

LEFT_OUT = "left_out"
"""State: the experts that are left out of the mixture, with reasons."""

HELD = "held_back"
"""State of earlier versions, which kept no version of an expert while it was held back: by expert,
the reason and its `scores`. `PROMOTIONS` has taken its place."""

PROMOTIONS = "promotions"
"""State: by expert, which version is promoted, which are held and why, and the yardstick after a
withdrawal."""

EVIDENCE = "withdrawal_evidence"
"""State: by withdrawn owner what was there `before`, or the `file` with the evidence."""

WITHDRAWN_BY_OPERATOR = "withdrawn_by_operator"
"""State: the owners whose withdrawal an operator's command has begun."""

WITHDRAWALS_BEGUN = "withdrawals_begun"
"""State: `owners` whose part a command had to remove, and the `experts` with such a part."""
