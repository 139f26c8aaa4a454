"""Files as people have them: what is read of each, or what the error names."""

import json
import re
from pathlib import Path

import pytest

from fedmore.experts.errors import DataError
from fedmore.experts.reading.documents import Format, read_corpus, read_documents

CASES = Path(__file__).parent / "cases"
TEXTS = CASES / "texts"
ROWS = json.loads((TEXTS / "expected.json").read_text(encoding="utf-8"))


def converse(turns):
    return "|".join(f"{turn['role']}: {turn['content']}" for turn in turns)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["path"])
def test_a_file_gives_its_documents_or_an_error_that_names(row):
    path = TEXTS / row["path"]
    if row["documents"] == "chat":
        corpus = read_corpus(path, converse=converse)
        assert corpus.documents == ["user: hi|assistant: hello"]
    elif row["documents"] is not None:
        assert read_documents(path) == row["documents"]
    else:
        with pytest.raises(DataError) as caught:
            read_documents(path)
        text = str(caught.value)
        assert text.startswith(str(path))
        assert [word for word in row["error_names"] if word not in text] == []
        assert "\n" not in text


NOTED = {
    "surrogate.jsonl": r"half a character \(lone surrogate\) replaced: 1 \(surrogate\.jsonl\)",
    "appledouble": r"hidden files and folders left out: 1 \(\._a\.txt\)",
    "hidden": r"hidden files and folders left out: 1 \(\.venv\)",
    "header-case.csv": r"column 'Text' is used as 'text': 1",
    "messages.jsonl": r"conversations, through the base's chat template: 1",
}


@pytest.mark.parametrize("path", NOTED)
def test_what_was_left_out_or_replaced_is_noted(path):
    notes = read_corpus(TEXTS / path, converse=converse).notes
    assert len(notes) == 1
    assert re.search(NOTED[path], notes[0])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["path"])
def test_what_is_read_without_remark_has_no_notes(row):
    if row["documents"] is not None and row["path"] not in NOTED:
        assert read_corpus(TEXTS / row["path"]).notes == ()


def test_the_encoding_is_the_owners_word():
    assert read_documents(TEXTS / "latin1.txt", Format(encoding="latin-1")) == ["olá, senhor"]


def test_the_column_is_the_owners_word():
    assert read_documents(TEXTS / "content-key.jsonl", Format(column="content")) == ["x"]


def test_a_table_whose_first_row_has_unquoted_commas_is_refused_with_its_line():
    path = CASES / "03-csv-shift" / "a.csv"
    with pytest.raises(DataError, match=rf"{path}:2: 4 fields, but the header has 2; put a text"):
        read_documents(path)


def test_bytes_of_a_parquet_file_are_decoded():
    documents = read_documents(CASES / "04-parquet-bytes")
    assert len(documents) == 20
    assert all(text.startswith("olá ") for text in documents)


def test_an_empty_shard_beside_a_full_one_is_no_error():
    corpus = read_corpus(CASES / "06-empty-shard")
    assert len(corpus.documents) == 5
    assert corpus.notes == ("files without text: 1 (part-00001.parquet)",)


def test_short_texts_are_read_whole():
    assert len(read_documents(CASES / "14-short")) == 30
