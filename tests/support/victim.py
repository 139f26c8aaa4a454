"""An owner as `client join` puts one together, with a plan agreed to: what hostile tests attack."""

import json

from flwr.app import ConfigRecord, Context, RecordDict

from fedmore.client.client_app import handle
from fedmore.client.egress.audit_log import Audit
from fedmore.client.egress.audit_report import read_ledger
from fedmore.client.egress.policy_guard import guard_of
from fedmore.experts.base.model import shapes_of
from fedmore.experts.errors import FedmoreError
from fedmore.protos.wire.flower_compat import make_task
from fedmore.strategies.expert_stage.pending import task_of
from fedmore.strategies.members import Member
from fedmore.strategies.stages.embedding import EmbeddingStage
from fedmore.strategies.stages.expert import ExpertStage
from fedmore.strategies.tasks.train import TrainTask, train_content
from fedmore.strategies.terms import RouterTerms, Terms

NODE = 5
STAGE = ExpertStage(rounds=3, steps=8, batch_size=4, sequence_length=64, threads=1)
ROUTER = RouterTerms(
    kind="domain", granularity="sequence", prefix_tokens=32, top_k=2, scaling="lora", init="zero",
    num_selections=4, entropy_weight=0.0, z_loss_weight=1e-3,
)  # fmt: skip
TERMS = Terms(seed=0, stages=(STAGE, EmbeddingStage()), router=ROUTER)
PUBLIC = (
    "It is a truth universally acknowledged, that a single man in possession of a fortune. " * 8
)
SECRET = [
    f"Mrs Example no. {i * 7919 % 997} was admitted on {i % 28 + 1} May with migraine and aura; "
    f"she was given {i * 31 % 90 + 10} mg and sent home in the care of Dr {chr(65 + i % 26)}."
    for i in range(60)
]  # fmt: skip
EMBEDDING = {
    "documents": TERMS.embed_documents, "tokens": TERMS.embed_tokens, "seed": 0, "stage": "router",
    "round": 1,
}  # fmt: skip


def sites_of(base):
    return ask_for().spec("a").sites(shapes_of(base.model))


def ask_for(**changes) -> TrainTask:
    member = Member("a", "expert", "legal", 4, 1, [], [])
    agreed = task_of(STAGE, member, 1, 0, TERMS.seed)
    return TrainTask(**(vars(agreed) | changes))


class Victim:
    """The client's app behind its guard, as `client join` puts them together."""

    def __init__(self, folder, base, settings):
        data = folder / "private.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in SECRET))
        config = {
            "name": "a", "kind": "expert", "target": "legal", "rank": 4, "data": str(data),
            "base": base.name, "dtype": "float32", "device": "cpu", "quantization": "none",
            **settings,
        }  # fmt: skip
        self.folder = folder
        self.context = Context(1, NODE, config, RecordDict(), {})
        self.guard = guard_of(NODE, config, Audit(folder))

    def do(self, kind, content):
        """What leaves the machine; raises what the coordinator is told."""
        message = make_task(content, task_id="t", node_id=NODE, message_type=kind)
        try:
            check_reply = self.guard.check_task(message)
            return check_reply(handle(message, self.context))
        except FedmoreError as error:
            self.guard.reason("t", error)
            raise

    def refusals(self):
        return [x["reason"] for x in read_ledger(self.folder).lines if x["call"] == "refused"]


def train_message(task, base, change=None):
    return train_content(task, sites_of(base), "fp32", change)


def embed(**changes):
    return RecordDict({"task": ConfigRecord(EMBEDDING | changes)})
