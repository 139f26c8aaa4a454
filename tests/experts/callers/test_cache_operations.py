"""What is done to a key-value cache is done to the router's memory in it."""

import copy
import inspect

import pytest
import torch
from transformers.cache_utils import DummyLayer, DynamicCache, StaticCache

from fedmore.experts.errors import ConfigError
from fedmore.experts.mixture.routing.cache_layer import RouterLayer
from fedmore.experts.routers.past import Past

IDS = torch.arange(4 * 16).view(4, 16) * 29 % 251
SEEN = 10


@torch.no_grad()
def filled(case, ids=IDS[:, :SEEN], pieces=(6, 1, 3)):
    """A cache of these texts, filled in several calls."""
    cache, at = DynamicCache(config=case.model.config), 0
    for size in pieces:
        case.model(ids[:, at : at + size], past_key_values=cache)
        at += size
    return cache


@torch.no_grad()
def goes_on(case, cache, texts, more=IDS[0, 11:14]):
    """Every text of the cache goes on as if it had been read at once."""
    ids = more.expand(len(texts), -1)
    logits = case.model(ids[:, :2], past_key_values=cache).logits
    last = case.model(ids[:, 2:], past_key_values=cache).logits
    for row, text in enumerate(texts):
        expected = case.by_hand(torch.cat([text, more]))[-len(more) :]
        case.close(torch.cat([logits[row], last[row]]), expected)


def reordered(cache):
    cache.reorder_cache(torch.tensor([2, 0, 0, 3]))
    return [IDS[row, :SEEN] for row in (2, 0, 0, 3)]


def selected(cache):
    cache.batch_select_indices(torch.tensor([3, 1]))
    return [IDS[row, :SEEN] for row in (3, 1)]


def selected_by_bools(cache):
    cache.batch_select_indices(torch.tensor([False, True, True, False]))
    return [IDS[row, :SEEN] for row in (1, 2)]


def repeated(cache):
    cache.batch_repeat_interleave(2)
    return [IDS[row, :SEEN] for row in (0, 0, 1, 1, 2, 2, 3, 3)]


def cropped(cache):
    cache.crop(-6)
    return list(IDS[:, : SEEN - 6])


def cropped_to_a_call(cache):
    cache.crop(-4)
    return list(IDS[:, : SEEN - 4])


def cropped_by_nothing(cache):
    cache.crop(0)
    return list(IDS[:, :SEEN])


def contrastive(cache):
    """As contrastive search does: candidates for every text, then one of them is taken."""
    cache.batch_repeat_interleave(3)
    cache.batch_select_indices(torch.tensor([1, 5, 6, 11]))
    return list(IDS[:, :SEEN])


def several(cache):
    cache.batch_repeat_interleave(2)
    cache.crop(-3)
    cache.reorder_cache(torch.tensor([5, 4, 3, 2, 1, 0, 7, 6]))
    cache.batch_select_indices(torch.tensor([0, 3, 7]))
    return [IDS[row, : SEEN - 3] for row in (2, 1, 3)]


def untouched(cache):
    return list(IDS[:, :SEEN])


OPERATIONS = [reordered, selected, selected_by_bools, repeated, cropped, cropped_to_a_call,
              cropped_by_nothing, contrastive, several, untouched]  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda f: f.__name__)
def test_the_memory_follows(case, operation):
    cache = filled(case)
    goes_on(case, cache, operation(cache))


@pytest.mark.parametrize("operation", [reordered, cropped, several], ids=lambda f: f.__name__)
def test_a_copy_goes_its_own_way(case, operation):
    cache = filled(case)
    copied = copy.deepcopy(cache)
    goes_on(case, copied, operation(copied))
    goes_on(case, cache, untouched(cache))


def test_a_reset_cache_begins_anew(case):
    cache = filled(case)
    cache.reset()
    goes_on(case, cache, [IDS[0, :0]] * 2)


def test_cropped_to_nothing_it_begins_anew(case):
    cache = filled(case)
    cache.crop(-SEEN)
    goes_on(case, cache, [IDS[0, :0]] * 4)


def test_a_text_that_is_repeated_from_one(case):
    """One prompt is read once and gone on with several times."""
    cache = filled(case, IDS[1:2, :SEEN])
    cache.batch_repeat_interleave(3)
    goes_on(case, cache, [IDS[1, :SEEN]] * 3)


def test_texts_take_turns(case):
    """Several conversations, each with its own cache, token by token."""
    caches = [filled(case, IDS[row : row + 1, :SEEN]) for row in range(3)]
    for at in range(SEEN, 13):
        for row, cache in enumerate(caches):
            with torch.no_grad():
                found = case.model(IDS[row : row + 1, at : at + 1], past_key_values=cache).logits
            case.close(found[0], case.by_hand(IDS[row, : at + 1])[-1:])


@pytest.mark.slow
@torch.no_grad()
def test_over_230_tokens_one_by_one(simple):
    ids = torch.randint(0, 250, (1, 236), generator=torch.Generator().manual_seed(0))
    cache, found = None, []
    for at in range(ids.shape[1]):
        out = simple.model(ids[:, at : at + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        found.append(out.logits[0])
    simple.close(torch.cat(found), simple.by_hand(ids[0]))


@torch.no_grad()
def test_a_cache_that_the_model_makes_itself(case):
    first = case.model(IDS[:, :SEEN], use_cache=True, return_dict=False)
    goes_on(case, next(part for part in first if isinstance(part, DynamicCache)), IDS[:, :SEEN])


@torch.no_grad()
def test_padding_is_remembered_with_the_cache(case):
    """Rows of several lengths, padded on the left, are reordered and go on."""
    real, mask = (10, 6, 8, 3), torch.zeros(4, SEEN, dtype=torch.long)
    ids = torch.full((4, SEEN), 250)
    for row, count in enumerate(real):
        mask[row, SEEN - count :], ids[row, SEEN - count :] = 1, IDS[row, :count]
    cache = DynamicCache(config=case.model.config)
    case.model(ids, mask, past_key_values=cache)
    order = torch.tensor([3, 1, 1, 0])
    cache.reorder_cache(order)
    more = IDS[0, 11:13].expand(4, -1)
    wider = torch.nn.functional.pad(mask[order], (0, 2), value=1)
    found = case.model(more, wider, past_key_values=cache).logits
    for row, old in enumerate(order.tolist()):
        text = torch.cat([IDS[old, : real[old]], more[0]])
        case.close(found[row], case.by_hand(text)[-2:])


def other_mixture(case):
    """Somebody else's cache, of the same length."""
    cache = DynamicCache(config=case.base.config)
    case.base(IDS[:1, :4], past_key_values=cache)
    return cache


def emptied_layer(case):
    cache = filled(case, IDS[:1, :4], (4,))
    layer = cache.layers[0]
    layer.keys, layer.values = layer.keys[:, :, :2], layer.values[:, :, :2]
    return cache


def gone_on_by_the_base(case):
    cache = filled(case, IDS[:1, :4], (4,))
    case.base(IDS[:1, 4:6], past_key_values=cache)
    return cache


def of_another_owner(case):
    cache = filled(case, IDS[:1, :4], (4,))
    cache.layers[-1].past.owner = "another"
    return cache


REFUSED = {
    other_mixture: "holds 4 tokens that went through another model",
    of_another_owner: "holds 4 tokens that went through another model",
    emptied_layer: "holds 2 tokens, and the router has seen 4",
    gone_on_by_the_base: "holds 6 tokens, and the router has seen 4",
    lambda _: ((torch.zeros(1), torch.zeros(1)),): "past_key_values is a tuple",
}


@pytest.mark.parametrize("made", REFUSED, ids=lambda f: f.__name__.strip("<>"))
@torch.no_grad()
def test_a_cache_that_the_router_did_not_see_is_refused(simple, made):
    cache = made(simple)
    for _ in range(2):
        with pytest.raises(ConfigError, match=REFUSED[made]) as error:
            simple.model(IDS[:1, 6:7], past_key_values=cache)
        assert "\n" not in str(error.value)
    goes_on(simple, filled(simple), IDS[:, :SEEN])


@torch.no_grad()
def test_a_failed_call_leaves_the_text_as_it_was(case):
    """Before the first layer's keys are in the cache, nothing has happened."""
    cache = filled(case)

    def fail(*_):
        raise MemoryError("no room")

    handle = case.model.model.layers[0].register_forward_pre_hook(fail, prepend=True)
    with pytest.raises(MemoryError):
        case.model(IDS[:, 11:12], past_key_values=cache)
    handle.remove()
    goes_on(case, cache, IDS[:, :SEEN])


def test_the_layer_answers_to_all_that_a_layer_is_asked():
    """A method that a later transformers gives its layers is missed here, not in a federation."""
    own = vars(RouterLayer)
    asked = {name for name, _ in inspect.getmembers(DummyLayer, inspect.isfunction)}
    silent = {"__init__", "update", "offload", "prefetch", "get_max_length"}
    assert asked - silent == {name for name in own if inspect.isfunction(own[name])} - {"__init__"}
    assert RouterLayer(Past()).is_compileable


@torch.no_grad()
def test_a_static_cache_keeps_the_last_sums_alone(by_layer):
    cache = StaticCache(config=by_layer.model.config, max_cache_len=30)
    by_layer.model(IDS[:, :SEEN], past_key_values=cache)
    past = cache.layers[-1].past
    assert {len(track.pieces) for track in past.sums.values()} == {1}
    assert all(track.pieces[0].shape[1] == 1 for track in past.sums.values())
    goes_on(by_layer, cache, IDS[:, :SEEN])
