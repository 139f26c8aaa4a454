"""Every way of `generate`: the tokens that the sums by hand would have given."""

import math
import warnings

import pytest
import torch
from transformers import GenerationConfig, StoppingCriteriaList, TextIteratorStreamer
from transformers.cache_utils import DynamicCache

IDS = torch.arange(4 * 16).view(4, 16) * 29 % 251
PROMPT = IDS[:2, :7]
NEW = 6
PLAIN = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def generate(case, ids=PROMPT, **options):
    mask = options.pop("attention_mask", torch.ones_like(ids))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return case.model.generate(ids, attention_mask=mask, **PLAIN | options)


GREEDY = {
    "cached": {},
    "without a cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "prefill in pieces": {"prefill_chunk_size": 3},
    "a cache of the caller's": {"past_key_values": DynamicCache},
    "one beam": {"num_beams": 1},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "with scores": {"output_scores": True, "output_logits": True, "return_dict_in_generate": True},
    "stopping criteria": {"stopping_criteria": StoppingCriteriaList()},
    "a configuration": {"generation_config": GenerationConfig(use_cache=True)},
}


@pytest.mark.parametrize("way", GREEDY)
def test_the_likeliest_tokens(case, way):
    options = dict(GREEDY[way])
    if options.get("past_key_values"):
        options["past_key_values"] = DynamicCache(config=case.model.config)
    rows = PROMPT[:1] if way == "prompt lookup" else PROMPT
    found = generate(case, rows, **options)
    found = found if isinstance(found, torch.Tensor) else found.sequences
    for row, text in zip(found, rows, strict=True):
        assert row[len(text) :].tolist() == case.greedy(text, NEW)


def test_padded_on_the_left(case):
    ids, mask = torch.full((3, 9), 250), torch.zeros(3, 9, dtype=torch.long)
    for row, count in enumerate((9, 4, 6)):
        ids[row, 9 - count :], mask[row, 9 - count :] = IDS[row, :count], 1
    for options in ({}, {"cache_implementation": "static"}):
        found = generate(case, ids, attention_mask=mask, **options)
        for row, count in enumerate((9, 4, 6)):
            assert found[row, 9:].tolist() == case.greedy(IDS[row, :count], NEW)


def test_from_embeddings(case):
    given = case.model.get_input_embeddings()(PROMPT)
    with torch.no_grad():
        found = case.model.generate(
            inputs_embeds=given, attention_mask=torch.ones_like(PROMPT), **PLAIN
        )
    assert [row.tolist() for row in found] == [case.greedy(text, NEW) for text in PROMPT]


def beams_by_hand(case, text, beams):
    """Log probability of the best `beams` texts: every one is scored whole, without a cache."""
    best = [(0.0, text)]
    for _ in range(NEW):
        longer = []
        for score, ids in best:
            logs = case.by_hand(ids)[-1].log_softmax(-1)
            top = logs.topk(beams)
            longer += [
                (score + log.item(), torch.cat([ids, token[None]]))
                for log, token in zip(top.values, top.indices, strict=True)
            ]
        best = sorted(longer, key=lambda pair: -pair[0])[:beams]
    return best


@pytest.mark.parametrize("cached", [True, False], ids=["cache", "no cache"])
def test_beam_search(case, cached):
    found = generate(
        case, num_beams=3, num_return_sequences=3, use_cache=cached, length_penalty=0.0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    for row, text in enumerate(PROMPT):
        expected = beams_by_hand(case, text, 3)
        part = slice(3 * row, 3 * row + 3)
        assert found.sequences[part].tolist() == [ids.tolist() for _, ids in expected]
        scores = torch.tensor([score for score, _ in expected], dtype=torch.float64)
        case.close(found.sequences_scores[part].double(), scores)


def test_drawn_tokens_are_drawn_from_the_sums_by_hand(case):
    """With the same random numbers: what is drawn, and from which probabilities."""
    torch.manual_seed(5)
    found = generate(
        case, do_sample=True, top_k=0, output_logits=True, return_dict_in_generate=True
    )
    for row, text in enumerate(PROMPT):
        for step in range(NEW):
            ids = found.sequences[row, : len(text) + step]
            case.close(found.logits[step][row].double(), case.by_hand(ids)[-1])


def test_sampled_beams_have_the_probability_that_is_said(case):
    torch.manual_seed(5)
    found = generate(
        case, num_beams=2, do_sample=True, top_k=0, length_penalty=0.0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    for row, text in enumerate(PROMPT):
        logs = case.by_hand(found.sequences[row]).log_softmax(-1)[len(text) - 1 : -1]
        said = logs.gather(1, found.sequences[row, len(text) :, None]).sum()
        assert float(said) == pytest.approx(float(found.sequences_scores[row]), abs=1e-5)


def test_several_answers_to_one_prompt(case):
    torch.manual_seed(5)
    found = generate(
        case, do_sample=True, num_return_sequences=3, output_logits=True, top_k=0,
        return_dict_in_generate=True,
    )  # fmt: skip
    for row in range(6):
        case.close(found.logits[-1][row].double(), case.by_hand(found.sequences[row, :-1])[-1])


def test_assisted_by_the_base_and_assisting(case):
    """The mixture checks what the base guesses, and crops its cache; and the other way round."""
    text = PROMPT[:1]
    found = generate(case, text, assistant_model=case.base)
    assert found[0, text.shape[1] :].tolist() == case.greedy(text[0], NEW)
    expected = case.base.generate(text, attention_mask=torch.ones_like(text), **PLAIN)
    found = case.base.generate(
        text, attention_mask=torch.ones_like(text), assistant_model=case.model, **PLAIN
    )
    assert torch.equal(found, expected)


def contrastive(model, input_ids, logits_processor=None, stopping_criteria=None,
                generation_config=None, top_k=3, penalty_alpha=0.6, **kwargs):  # fmt: skip
    """Contrastive search (arXiv 2202.06417) with a cache that is repeated and selected from.

    transformers 5 has it as a file on the hub only, so it is written out here.
    """
    rows = len(input_ids)
    cache = DynamicCache(config=model.config)
    out = model(input_ids, past_key_values=cache, output_hidden_states=True)
    states, logits = out.hidden_states[-1], out.logits[:, -1]
    for _ in range(generation_config.max_new_tokens):
        odds, tokens = logits.softmax(-1).topk(top_k)
        cache.batch_repeat_interleave(top_k)
        out = model(tokens.flatten()[:, None], past_key_values=cache, output_hidden_states=True)
        new = out.hidden_states[-1]
        before = states.repeat_interleave(top_k, dim=0)
        alike = torch.cosine_similarity(before, new, dim=-1).amax(1)
        score = (1 - penalty_alpha) * odds.flatten() - penalty_alpha * alike
        best = score.view(rows, top_k).argmax(1) + torch.arange(rows) * top_k
        cache.batch_select_indices(best)
        input_ids = torch.cat([input_ids, tokens.flatten()[best][:, None]], 1)
        states, logits = torch.cat([states, new[best]], 1), out.logits[best, -1]
    return input_ids


@pytest.mark.slow
def test_contrastive_search_with_a_cache_is_contrastive_search(case):
    """Against the same search that reads every candidate's whole text anew, in the mixture."""
    found = generate(case, custom_generate=contrastive)
    for row, text in enumerate(PROMPT):
        ids = text
        for _ in range(NEW):
            odds, tokens = case.by_hand(ids)[-1].softmax(-1).topk(3)
            scores = []
            for odd, token in zip(odds, tokens, strict=True):
                whole = torch.cat([ids, token[None]])
                states = case.states(whole)
                alike = torch.cosine_similarity(states[:-1], states[-1:], dim=-1).max()
                scores.append(0.4 * odd - 0.6 * alike)
            ids = torch.cat([ids, tokens[int(torch.stack(scores).argmax())][None]])
        assert found[row].tolist() == ids.tolist()


class Letters:
    """A tokenizer as far as a streamer needs one."""

    def decode(self, ids, **_):
        return "".join(f"{int(i):03d}|" for i in ids)


def test_streamed(simple):
    streamer = TextIteratorStreamer(Letters(), skip_prompt=True, timeout=60)
    generate(simple, PROMPT[:1], streamer=streamer)
    found = [int(token) for token in "".join(streamer).split("|") if token]
    assert found == simple.greedy(PROMPT[0], NEW)


def test_stopped_by_a_string_it_may_go_on(simple, base):
    """Stopped in the middle, the cache is of what was read, and another call goes on with it."""
    cache = DynamicCache(config=simple.model.config)
    first = generate(simple, PROMPT[:1], past_key_values=cache, max_new_tokens=2)
    second = generate(simple, first, past_key_values=cache, max_new_tokens=4)
    assert second[0, PROMPT.shape[1] :].tolist() == simple.greedy(PROMPT[0], 6)
    assert math.isfinite(float(simple.by_hand(second[0]).sum()))
