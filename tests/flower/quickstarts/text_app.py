"""In the shape of Flower's quickstart for transformers: a classifier named by the run config.

The text of its own; the model is a tiny random BERT made from its name, and no hub is asked.
"""

import warnings
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from flwr.client import ClientApp, NumPyClient
    from flwr.common import Context, ndarrays_to_parameters
    from flwr.server import ServerApp, ServerAppComponents, ServerConfig
    from flwr.server.strategy import FedAvg


def model_named(name):
    assert name == "tiny-bert"
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(
        BertConfig(vocab_size=32, intermediate_size=16, max_position_embeddings=8, **sizes)
    )


def arrays_of(model):
    return [tensor.numpy() for tensor in model.state_dict().values()]


class Classifier(NumPyClient):
    def __init__(self, name, part, parts):
        self.model = model_named(name)
        generator = torch.Generator().manual_seed(part)
        self.ids = torch.randint(0, 32, (32 // parts, 6), generator=generator)
        self.labels = self.ids[:, 0] % 2

    def take(self, parameters):
        names = self.model.state_dict()
        new = (torch.from_numpy(array.copy()) for array in parameters)
        self.model.load_state_dict(dict(zip(names, new, strict=True)))

    def fit(self, parameters, config):
        self.take(parameters)
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.model(self.ids, labels=self.labels).loss.backward()
        optimiser.step()
        return arrays_of(self.model), len(self.ids), {}

    def evaluate(self, parameters, config):
        self.take(parameters)
        with torch.no_grad():
            found = self.model(self.ids, labels=self.labels)
        right = (found.logits.argmax(1) == self.labels).float().mean()
        return float(found.loss), len(self.ids), {"accuracy": float(right)}


def client_fn(context: Context):
    node, name = context.node_config, context.run_config["model-name"]
    return Classifier(name, node["partition-id"], node["num-partitions"]).to_client()


def server_fn(context: Context):
    run = context.run_config
    model = model_named(run["model-name"])
    strategy = FedAvg(
        fraction_fit=run["fraction-fit"],
        fraction_evaluate=run["fraction-evaluate"],
        initial_parameters=ndarrays_to_parameters(arrays_of(model)),
    )
    Path(run["out"]).write_bytes(b"begun")
    return ServerAppComponents(
        strategy=strategy, config=ServerConfig(num_rounds=run["num-server-rounds"])
    )


client_app = ClientApp(client_fn=client_fn)
server_app = ServerApp(server_fn=server_fn)
