"""Tools that take any Hugging Face model: compilers, pipelines, the Trainer, lm-eval."""

import copy
import warnings

import pytest
import torch
from transformers import Trainer, TrainingArguments, pipeline
from transformers.cache_utils import DynamicCache

IDS = torch.arange(4 * 16).view(4, 16) * 29 % 251


@pytest.fixture
def compiled():
    """Call it with a model: compiled as far as may be, without a C compiler."""

    def make(model, **options):
        torch._dynamo.reset()
        return torch.compile(model, backend="eager", **options)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield make
    torch._dynamo.reset()


@pytest.mark.slow
@torch.no_grad()
def test_compiled(by_layer, compiled):
    """Scoring, then a text that goes on in a cache."""
    model = compiled(by_layer.model)
    by_layer.close(model(IDS, use_cache=False).logits, by_layer.rows(IDS))
    cache = DynamicCache(config=by_layer.model.config)
    pieces = IDS[:2, :8].split((6, 1, 1), dim=1)
    found = [model(ids, past_key_values=cache).logits for ids in pieces]
    by_layer.close(torch.cat(found, 1), by_layer.rows(IDS[:2, :8]))


@torch.no_grad()
def test_compiled_as_one_graph_is_refused(simple, compiled):
    said = "a mixture is compiled in pieces: call torch.compile with fullgraph=False"
    with pytest.raises(torch._dynamo.exc.Unsupported, match=said):
        compiled(simple.model, fullgraph=True)(IDS[:1], use_cache=False)
    simple.close(simple.model(IDS[:1]).logits[0], simple.by_hand(IDS[0]))


def test_a_pipeline_generates(simple, base):
    made = pipeline("text-generation", model=simple.model, tokenizer=base.tokenizer, device="cpu")
    texts = ["aura", "the law of"]
    found = made(texts, max_new_tokens=5, do_sample=False, return_tensors=True, eos_token_id=None)
    for text, answer in zip(texts, found, strict=True):
        ids = base.tokenizer(text)["input_ids"]
        assert answer[0]["generated_token_ids"][-5:] == simple.greedy(ids, 5)


def test_a_pipeline_of_features(simple, base):
    """It calls the model and takes its first output."""
    made = pipeline(
        "feature-extraction", model=simple.model, tokenizer=base.tokenizer, device="cpu"
    )
    found = torch.tensor(made("aura phase"), dtype=torch.float64)
    simple.close(found[0], simple.by_hand(base.tokenizer("aura phase")["input_ids"]))


class Rows(torch.utils.data.Dataset):
    """Texts of several lengths, padded on the right as a collator does."""

    lengths = (16, 9, 12, 5)

    def __len__(self):
        return 4

    def __getitem__(self, row):
        count = self.lengths[row]
        mask = (torch.arange(16) < count).long()
        ids = torch.where(mask.bool(), IDS[row], 250)
        return {"input_ids": ids, "attention_mask": mask,
                "labels": torch.where(mask.bool(), ids, -100)}  # fmt: skip


def test_the_trainer_evaluates(simple, tmp_path):
    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=3, report_to=[], use_cpu=True,
        dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(simple.model, arguments, eval_dataset=Rows())
    found = trainer.predict(Rows())
    losses = []
    for row, count in enumerate(Rows.lengths):
        logits = simple.by_hand(IDS[row, :count])
        simple.close(torch.as_tensor(found.predictions[row, :count]).double(), logits)
        losses.append(
            torch.nn.functional.cross_entropy(logits[:-1], IDS[row, 1:count], reduction="none")
        )
    batches = [torch.cat(losses[:3]).mean(), losses[3].mean()]
    expected = (3 * batches[0] + batches[1]) / 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(expected), rel=1e-4)


def rolled(model, rows):
    """As lm-eval's `loglikelihood`: padded on the right, by place, without a mask."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
    logits = model(ids).logits.log_softmax(-1)
    return [logits[i, : len(row) - 1].gather(1, row[1:, None]).sum() for i, row in enumerate(rows)]


@torch.no_grad()
def test_lm_eval_scores(case):
    rows = [IDS[0, :12], IDS[1, :7], IDS[2, :16]]
    for row, found in zip(rows, rolled(case.model, rows), strict=True):
        logs = case.by_hand(row).log_softmax(-1)[:-1]
        case.close(found, logs.gather(1, row[1:, None]).sum())


@torch.no_grad()
def test_lm_eval_generates(case):
    """As its `generate_until`: padded on the left, up to a length, with a mask."""
    rows = [IDS[0, :9], IDS[1, :4]]
    ids = torch.stack([torch.nn.functional.pad(row, (9 - len(row), 0), value=250) for row in rows])
    mask = torch.stack([torch.arange(9) >= 9 - len(row) for row in rows]).long()
    found = case.model.generate(
        input_ids=ids, attention_mask=mask, max_length=13, pad_token_id=0, use_cache=True,
        do_sample=False, eos_token_id=None,
    )  # fmt: skip
    assert [row[9:].tolist() for row in found] == [case.greedy(row, 4) for row in rows]


@torch.no_grad()
def test_a_copy_of_the_model_is_a_mixture_of_its_own(by_layer):
    """Copied in the middle of a text, both go on with it."""
    cache = DynamicCache(config=by_layer.model.config)
    by_layer.model(IDS[:1, :7], past_key_values=cache)
    copied, other = copy.deepcopy(by_layer.model), copy.deepcopy(cache)
    for model, past in ((by_layer.model, cache), (copied, other)):
        found = model(IDS[:1, 7:], past_key_values=past).logits
        by_layer.close(found[0], by_layer.by_hand(IDS[0])[7:])
