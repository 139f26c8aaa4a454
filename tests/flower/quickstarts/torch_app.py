"""In the shape of Flower's quickstart for PyTorch: messages, a loader, a model of torch.

The text of its own; the data is drawn on the spot.
"""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch.utils.data import DataLoader, TensorDataset


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))


def loader(part: int, parts: int, batch: int) -> DataLoader:
    generator = torch.Generator().manual_seed(part)
    inputs = torch.randn(64 // parts, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch)


def data(context: Context) -> DataLoader:
    node, run = context.node_config, context.run_config
    return loader(node["partition-id"], node["num-partitions"], run["batch-size"])


client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    model, batches = network(), data(context)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimiser = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"])
    for _ in range(context.run_config["local-epochs"]):
        for inputs, labels in batches:
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimiser.step()
    numbers = {"train_loss": loss.item(), "num-examples": len(batches.dataset)}
    records = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(numbers)}
    return Message(RecordDict(records), reply_to=message)


@client_app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model, batches = network(), data(context)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    inputs, labels = batches.dataset.tensors
    right = (model(inputs).argmax(1) == labels).float().mean().item()
    metrics = MetricRecord({"eval_acc": right, "num-examples": len(labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def at_the_server(_server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Evaluate what a round has made on data of the server's own."""
    model = network()
    model.load_state_dict(arrays.to_torch_state_dict())
    inputs, labels = loader(99, 1, 64).dataset.tensors
    right = (model(inputs).argmax(1) == labels).float().mean().item()
    return MetricRecord({"accuracy": right})


server_app = ServerApp()


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    run = context.run_config
    result = FedAvg(fraction_evaluate=run["fraction-evaluate"]).start(
        grid=grid,
        initial_arrays=ArrayRecord(network().state_dict()),
        train_config=ConfigRecord({"lr": run["learning-rate"]}),
        num_rounds=run["num-server-rounds"],
        evaluate_fn=at_the_server,
    )
    assert set(result.evaluate_metrics_serverapp) == set(range(run["num-server-rounds"] + 1))
    torch.save(result.arrays.to_torch_state_dict(), run["out"])
