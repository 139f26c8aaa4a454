"""By place, by name, as embeddings, padded: the logits are those of each text alone."""

import copy
import inspect

import pytest
import torch

from fedmore.experts.mixture.model import assemble

IDS = torch.arange(4 * 16).view(4, 16) * 29 % 251
T = IDS.shape[1]


def padded(side, real=(11, 16, 7, 13)):
    """Texts of several lengths in one batch, and which tokens they have."""
    ids, mask = torch.full_like(IDS, 250), torch.zeros_like(IDS)
    for row, count in enumerate(real):
        place = slice(T - count, T) if side == "left" else slice(count)
        ids[row, place], mask[row, place] = IDS[row, :count], 1
    return ids, mask, real


WAYS = {
    "by place": lambda case: case.model(IDS),
    "mask by place": lambda case: case.model(IDS, torch.ones_like(IDS)),
    "all by place": lambda case: case.model(IDS, None, torch.arange(T)[None]),
    "by name": lambda case: case.model(input_ids=IDS, use_cache=False),
    "as a tuple": lambda case: case.model(IDS, return_dict=False),
    "with labels": lambda case: case.model(input_ids=IDS, labels=IDS),
    "with states": lambda case: case.model(IDS, output_hidden_states=True),
    "as embeddings": lambda case: case.model(inputs_embeds=case.model.get_input_embeddings()(IDS)),
    "with a boolean mask": lambda case: case.model(IDS, torch.ones_like(IDS).bool()),
    "a float mask": lambda case: case.model(IDS, torch.ones_like(IDS).float()),
    "a deep copy": lambda case: copy.deepcopy(case.model)(IDS),
}


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_each_way_to_call_gives_the_sum_by_hand(case, way):
    found = WAYS[way](case)
    logits = found[0] if isinstance(found, tuple) else found.logits
    case.close(logits, case.rows(IDS))


@pytest.mark.parametrize("positions", [False, True], ids=["no positions", "positions"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(case, side, positions):
    ids, mask, real = padded(side)
    given = {"position_ids": (mask.cumsum(1) - 1).clamp_min(0)} if positions else {}
    logits = case.model(ids, mask, **given).logits
    for row, count in enumerate(real):
        place = slice(T - count, T) if side == "left" else slice(count)
        case.close(logits[row, place], case.by_hand(IDS[row, :count]))


@torch.no_grad()
def test_the_decoder_alone_has_the_mixtures_states(case):
    states = case.model.get_decoder()(IDS).last_hidden_state
    case.close(case.model.lm_head(states), case.rows(IDS))


@torch.no_grad()
def test_embedding_a_text_on_the_side_is_no_call(case):
    """Somebody embeds other texts between the calls, as a retrieval index does."""
    embed = case.model.get_input_embeddings()
    given = embed(IDS[:2])
    embed(IDS[2:, :5])
    case.close(case.model(inputs_embeds=given).logits, case.rows(IDS[:2]))


def test_gradients_reach_the_embeddings_as_by_hand(simple):
    given = simple.model.get_input_embeddings()(IDS[:1]).detach().requires_grad_()
    simple.model(inputs_embeds=given).logits.sum().backward()
    assert given.grad.abs().sum() > 0


def test_the_hooks_know_every_name_of_the_decoder(simple):
    """By place the decoder's arguments come in the order of its signature."""
    names = list(inspect.signature(type(simple.model.get_decoder()).forward).parameters)
    assert names[1:5] == ["input_ids", "attention_mask", "position_ids", "past_key_values"]


@torch.no_grad()
def test_no_token_sees_a_later_one(case):
    """To the last bit: what comes after a token changes nothing at it."""
    later = IDS.clone()
    later[:, 9:] = 77
    first, second = (case.model(ids, use_cache=False).logits for ids in (IDS, later))
    assert torch.equal(first[:, :9], second[:, :9])
    assert not torch.equal(first, second)


@torch.no_grad()
def test_experts_in_another_order_give_the_same(by_layer):
    """With a router that has no ties: of equal experts the first is taken."""
    experts = dict(reversed(by_layer.experts.items()))
    turned = assemble(by_layer.base, experts, by_layer.router.keeping([2, 1, 0]))
    by_layer.close(turned.model(IDS, use_cache=False).logits, by_layer.rows(IDS))
