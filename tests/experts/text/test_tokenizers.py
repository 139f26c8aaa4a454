"""What every kind of tokenizer must give: openers, cuts with the bytes of their tokens, windows."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from kinds_of_tokenizers import KINDS, TEXTS

from fedmore.experts.errors import ConfigError
from fedmore.experts.scoring.opener_choice import choose
from fedmore.experts.text.control_tokens import control_tokens
from fedmore.experts.text.opener import END_OF_TEXT, NONE, candidates, prefix_of, resolve
from fedmore.experts.text.passages import passages
from fedmore.experts.text.segments import segments_of
from fedmore.experts.text.tokenization import TextTokenizer, pad_token
from fedmore.experts.text.windows import Place, Stream

LONG = " ".join(TEXTS * 4)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def kind(request):
    return SimpleNamespace(about=request.param, tokenizer=request.param.make())


@pytest.fixture
def forms(kind):
    """Text under every opener, for windows too and not."""
    return [
        TextTokenizer(kind.tokenizer, resolve(kind.tokenizer, name, windows))
        for name in candidates(kind.tokenizer)
        for windows in (False, True)
    ]


def test_its_openers(kind):
    tokenizer = kind.tokenizer
    known = candidates(tokenizer)
    assert "".join(tokenizer.convert_ids_to_tokens(list(prefix_of(tokenizer)))) == kind.about.prefix
    assert list(known)[-1] == NONE
    assert known[NONE] == ()
    wanted = {tokenizer.bos_token, tokenizer.eos_token, kind.about.prefix} - {None, ""}
    assert wanted <= set(known)
    assert (END_OF_TEXT in known) == (END_OF_TEXT in tokenizer.get_vocab())
    assert resolve(tokenizer).name == kind.about.opener
    assert len(set(known.values())) == len(known)
    with pytest.raises(ConfigError, match=f"no such opener; it has .*{NONE}"):
        resolve(tokenizer, "<|nothing|>")


def test_there_is_something_to_pad_with(kind):
    assert 0 <= pad_token(kind.tokenizer) < len(kind.tokenizer)


@pytest.mark.parametrize("text", TEXTS)
def test_a_document_is_the_opener_and_the_text(forms, text):
    """Once, whoever opens it; and nothing is put behind it."""
    for form in forms:
        opener = list(form.opener.ids)
        ids = form.document(text)
        assert ids == opener + form.plain(text) == form.opened(ids)
        assert form.tokenizer.decode(form.plain(text)) == text


def test_text_holds_no_control_token(kind, forms):
    for token in control_tokens(kind.tokenizer):
        ids = forms[0].plain(f"a {token}{token} b")
        assert kind.tokenizer.convert_tokens_to_ids(token) not in ids


def ends_of_tokens(tokenizer, text):
    """For every token how many bytes of the text lie before its end, by the tokenizer's offsets."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return [len(text[:end].encode()) for _, end in found["offset_mapping"]]


@pytest.mark.parametrize("text", TEXTS)
def test_a_cut_has_the_bytes_of_exactly_its_predicted_tokens(forms, text):
    """At every length; what is predicted is all but the opener or, without, the first character."""
    for form in forms:
        ends, opener = ends_of_tokens(form.tokenizer, text), len(form.opener.ids)
        for tokens in range(1, len(ends) + 2):
            cut = form.cut(text, tokens)
            own = cut.ids[opener:]
            assert own == form.plain(text)[: len(own)]
            context = cut.given - opener  # 0 after an opener
            before = ends[context - 1] if context else 0
            if own:
                assert cut.size == ends[len(own) - 1] - before
                assert ends[len(own) - 1] < ([*ends, 9999])[len(own)]  # no character is cut
            assert context == 0 if opener else own == [] or context >= 1
            assert len(own) >= min(tokens, len(ends)) - 3  # bytes of one character at most


def test_the_whole_text_is_counted_in_bytes(forms):
    for form in forms:
        cut = form.cut(LONG, 10_000)
        first = form.tokenizer.decode(cut.ids[: cut.given]) if not form.opener.ids else ""
        assert cut.size == len(LONG.encode()) - len(first.encode())


def test_windows_train_every_token_and_open_as_chosen(forms):
    documents = [LONG, *TEXTS]
    for form in forms:
        stream = Stream(form, segments_of(documents, 10_000), 16, seed=0)
        place, rows = Place(), []
        while place.epoch < 1:
            part = stream.take(place, 1)
            rows.append(part.windows[0].tolist())
            place = part.place
        opener = list(form.opener.ids)
        trained = Counter(token for row in rows for token in row[1:])
        wanted = Counter(token for text in documents for token in form.plain(text))
        assert not Counter({t: n for t, n in wanted.items() if t not in opener}) - trained
        if form.opener.windows:
            assert all(row[: len(opener)] == opener for row in rows)
        elif not opener:
            assert not set(kind_of_control(form)) & set(trained)


def kind_of_control(form):
    tokens = control_tokens(form.tokenizer)
    return form.tokenizer.convert_tokens_to_ids(list(tokens))


def test_passages_are_text_alone(forms):
    for form in forms:
        found = passages([LONG, *TEXTS], form, 20, 8, seed=0)
        assert {passage.number for passage in found} == set(range(1 + len(TEXTS)))
        assert not {i for p in found for i in p.ids} & set(kind_of_control(form))
        begin = next(p for p in found if p.number == 0)
        assert begin.ids == form.plain(LONG)[:8]


class Liking:
    """A model that knows the text by heart if `liked` stands before it, and else nothing.

    With `inside` it also does after any token of text but the first of a row.
    """

    device = torch.device("cpu")

    def __init__(self, vocabulary, liked, *, inside):
        self.vocabulary, self.liked, self.inside = vocabulary, list(liked), inside

    def __call__(self, input_ids, use_cache):
        assert not use_cache
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        nexts = torch.roll(input_ids, -1, 1)
        for row, ids in enumerate(input_ids.tolist()):
            if self.knows(ids):
                logits[row].scatter_(1, nexts[row, :, None], 9.0)
        return SimpleNamespace(logits=logits)

    def knows(self, ids):
        opened = bool(self.liked) and ids[: len(self.liked)] == self.liked
        return opened or self.inside


def test_the_opener_that_the_base_likes_is_chosen(kind):
    tokenizer = kind.tokenizer
    for name, ids in candidates(tokenizer).items():
        if name == NONE:
            continue
        choice = choose(Liking(len(tokenizer), ids, inside=False), tokenizer, [LONG] * 12)
        assert (choice.opener.name, choice.opener.ids) == (name, ids)
        assert choice.opener.windows
        assert choice.starts[name] == min(choice.starts.values())
        assert all(part in " ".join(choice.lines()) for part in (*choice.starts, "opened too"))


def test_where_the_base_likes_all_alike_windows_are_not_opened(kind):
    tokenizer = kind.tokenizer
    choice = choose(Liking(len(tokenizer), (), inside=True), tokenizer, [LONG] * 12)
    assert choice.opener.name == next(iter(candidates(tokenizer)))  # the first of equals
    assert not choice.opener.windows
