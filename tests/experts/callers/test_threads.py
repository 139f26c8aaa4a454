"""Any number of threads and tasks use one mixture at once; each gets what it would get alone."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers.cache_utils import DynamicCache

from fedmore.experts.mixture.generation import Settings
from fedmore.experts.mixture.generation import generate as make
from fedmore.experts.mixture.routing.state import Wishes

THREADS = 16
IDS = torch.arange(THREADS * 16).view(THREADS, 16) * 29 % 251
NEW = 5


def at_once(work):
    """What `work` gives for every thread's number; all of them begin together."""
    ready = threading.Barrier(THREADS)

    def one(number):
        ready.wait(60)
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(THREADS)))


def lengths(number):
    return IDS[number, : 6 + number % 10]


def test_sixteen_threads_score(case):
    """Texts of several lengths, several times each."""

    @torch.no_grad()
    def score(number):
        text = lengths(number)[None]
        return [case.model(text, use_cache=False).logits[0] for _ in range(4)]

    for number, found in enumerate(at_once(score)):
        for logits in found:
            case.close(logits, case.by_hand(lengths(number)))


def test_sixteen_threads_go_on_in_their_caches(case):
    @torch.no_grad()
    def go_on(number):
        cache = DynamicCache(config=case.model.config)
        pieces = lengths(number)[None].split(3, dim=1)
        return torch.cat([case.model(ids, past_key_values=cache).logits[0] for ids in pieces])

    for number, found in enumerate(at_once(go_on)):
        case.close(found, case.by_hand(lengths(number)))


@torch.no_grad()
def generated(case, text, **options):
    ids = torch.as_tensor(text)[None]
    plain = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = case.model.generate(ids, attention_mask=torch.ones_like(ids), **plain, **options)
    return found[0, ids.shape[1] :].tolist()


def test_sixteen_threads_generate_each_in_its_way(simple):
    """Some with beams of one, some without a cache, some with a static one."""
    ways = ({}, {"use_cache": False}, {"cache_implementation": "static"},
            {"prompt_lookup_num_tokens": 2})  # fmt: skip
    found = at_once(lambda number: generated(simple, lengths(number), **ways[number % 4]))
    assert found == [simple.greedy(lengths(number), NEW) for number in range(THREADS)]


def test_what_one_thread_asks_for_is_its_own(case):
    """Half of them watch, force or draw, as training does, while the others score."""
    arms = torch.eye(4)

    @torch.no_grad()
    def work(number):
        gates, text, watched = case.mixture.gates, lengths(number)[None], []
        wishes = {"watch": watched, "forced": arms[number % 4][None]} if number % 2 else {}
        with gates.asking(**wishes):
            logits = [case.model(text, use_cache=False).logits[0] for _ in range(3)]
        assert gates.wishes == Wishes()
        assert gates.call is None
        return logits, watched

    for number, (found, watched) in enumerate(at_once(work)):
        if number % 2:
            wanted = arms[number % 4].double().expand(1, len(lengths(number)), 4)
            assert len(watched) == 3
            assert all(torch.equal(weights, wanted) for weights in watched)
        else:
            for logits in found:
                case.close(logits, case.by_hand(lengths(number)))


@pytest.mark.slow
def test_texts_that_are_told_token_by_token(simple, base):
    """Our own generation: drawn texts too have their own random numbers, and their own weights."""

    def tell(number):
        settings = Settings(max_tokens=4, temperature=float(number % 2), seed=number)
        return make(simple.mixture, base.tokenizer, lengths(number).tolist(), settings)

    alone = [tell(number) for number in range(THREADS)]
    for found, expected in zip(at_once(tell), alone, strict=True):
        assert found.ids == expected.ids
        torch.testing.assert_close(found.weights_LTA, expected.weights_LTA)


class Server:
    """An asyncio server of a mixture: a line of tokens in, a line of tokens out."""

    def __init__(self, case):
        self.case = case

    async def answer(self, reader, writer):
        text = [int(token) for token in (await reader.readline()).split()]
        found = await asyncio.to_thread(generated, self.case, text)
        writer.write(" ".join(map(str, found)).encode() + b"\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


async def ask(port, text):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(" ".join(map(str, text.tolist())).encode() + b"\n")
    answer = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return [int(token) for token in answer.split()]


async def served(case):
    server = await asyncio.start_server(Server(case).answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await asyncio.gather(*(ask(port, lengths(number)) for number in range(THREADS)))


def test_an_asyncio_server(simple):
    found = asyncio.run(served(simple))
    assert found == [simple.greedy(lengths(number), NEW) for number in range(THREADS)]


async def token_by_token(case, text, found):
    """One task of many in the same thread; after each token another's turn comes."""
    cache, ids = DynamicCache(config=case.model.config), text[None]
    for _ in range(NEW):
        with torch.no_grad():
            logits = case.model(ids, past_key_values=cache).logits[:, -1]
        ids = logits.argmax(-1, keepdim=True)
        found.append(int(ids))
        await asyncio.sleep(0)


@pytest.mark.parametrize("tasks", [5])
def test_tasks_that_take_turns_in_one_thread(case, tasks):
    found = [[] for _ in range(tasks)]

    async def all_of_them():
        await asyncio.gather(
            *(token_by_token(case, lengths(number), found[number]) for number in range(tasks))
        )

    asyncio.run(all_of_them())
    assert found == [case.greedy(lengths(number), NEW) for number in range(tasks)]
