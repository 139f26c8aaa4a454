import copy
import csv
import gzip
import json

import pytest

from fedmore.experts.errors import ConfigError, DataError
from fedmore.experts.reading.conversations import chat_template
from fedmore.experts.reading.documents import Format, read_corpus, read_documents
from fedmore.experts.text.opener import resolve
from fedmore.experts.text.tokenization import TextTokenizer


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_txt_and_md_are_one_document_each_in_order_of_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.md").write_text("two\nlines", encoding="utf-8")
    (tmp_path / "a.txt").write_text("olá 漢", encoding="utf-8")
    (tmp_path / "sub" / "c.txt").write_text("deep", encoding="utf-8")
    (tmp_path / "d.bin").write_bytes(b"\xff\xfe")
    assert read_documents(tmp_path) == ["olá 漢", "two\nlines", "deep"]
    assert read_documents(tmp_path / "b.md") == ["two\nlines"]


def test_jsonl_is_one_document_a_line_and_blank_ones_are_left_out(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"text": "one", "id": 1}, {"text": "  \n"}, {"text": "two"})
    assert read_documents(tmp_path) == ["one", "two"]


BROKEN_LINES = ["{broken", '{"body": "x"}', '["text"]', "3", '{"text": 3}', "[" * 100_000]


@pytest.mark.parametrize("line", BROKEN_LINES, ids=lambda line: line[:20])
def test_a_broken_line_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.jsonl:2: "):
        read_documents(tmp_path)


def test_csv(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], [1, 'quoted, "x"'], [2, ""], [3, "olá"]])
    assert read_documents(tmp_path) == ['quoted, "x"', "olá"]


def test_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["one", None, "two"]}), tmp_path / "a.parquet")
    assert read_documents(tmp_path) == ["one", "two"]


BROKEN = {
    "a.parquet": [b"", b"\x00\xff\x13 nonsense \xfe"],
    "a.csv": [b"\x00\xff\x13 nonsense \xfe", b'text\n"never closed\n', b'text\n"a" b\n'],
    "a.tsv": [b"id\ttext\n1\ta\tb\n", b"text\ttext\n1\t2\n"],
    "a.json": [b"{", b"[" * 100_000, b'{"data": []}', b"3", b'[{"text": "x"}, 3]'],
    "a.jsonl.gz": [b"plain", gzip.compress(b'{"text": "x"}\n', mtime=0)[:-9]],
    "a.txt.gz": [gzip.compress("olá".encode("latin-1"), mtime=0)],
}


@pytest.mark.parametrize(
    ("name", "content"),
    [(name, content) for name, all_of in BROKEN.items() for content in all_of],
    ids=lambda part: str(part[:20]),
)
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / "b.txt").write_text("fine", encoding="utf-8")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        read_documents(tmp_path)
    assert "None" not in str(caught.value)


def test_json_is_a_list_one_table_or_lines(tmp_path):
    write = {
        "list.json": '[{"text": "a"}, "b"]', "one.json": '{"text": "c"}',
        "lines.json": '{"text": "d\u2028"}\n{"text": "e"}',
    }  # fmt: skip
    for name, text in write.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_documents(tmp_path) == ["d\u2028", "e", "a", "b", "c"]


def test_rows_without_text_are_left_out_and_noted(tmp_path):
    jsonl(tmp_path / "a.jsonl", {"text": None}, {"text": "one"})
    corpus = read_corpus(tmp_path)
    assert corpus.documents == ["one"]
    assert corpus.notes[0].startswith("rows without text left out: 1")


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_seen_in_the_header(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [["id", " Text "], [1, "a, b; c"], [2, "two\nlines"]]
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert read_documents(path) == ["a, b; c", "two\nlines"]


def test_a_csv_field_may_be_as_long_as_a_book(tmp_path):
    (tmp_path / "a.csv").write_text(f"text\n{'word ' * 100_000}\n", encoding="utf-8")
    assert len(read_documents(tmp_path)[0]) == 500_000


def test_a_row_of_another_length_is_named_by_its_first_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"two\nlines"\n\n2,b\n3,"three\nlines",c\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.csv:6: 3 fields, but the header has 2"):
        read_documents(path)


ARROW = {
    "bytes": ([b"ol\xc3\xa1"], "binary", ["olá"]),
    "large": (["olá"], "large_string", ["olá"]),
    "view": (["olá"], "string_view", ["olá"]),
    "dictionary": (["olá", "olá"], "dictionary", ["olá", "olá"]),
    "latin-1": ([b"ol\xe1"], "binary", r"row 1: text is not UTF-8 text"),
    "list": ([["a", "b"]], "list", r"the column 'text' holds list<.*>, not text; give --column"),
    "number": ([3], "int64", r"the column 'text' holds int64, not text; give --column"),
    "date": ([0], "date32", r"the column 'text' holds date32\[day\], not text"),
}


@pytest.mark.parametrize("case", ARROW)
def test_a_parquet_column_is_text_or_bytes_that_are_text(tmp_path, case):
    import pyarrow as pa
    from pyarrow import parquet

    values, kind, expected = ARROW[case]
    kinds = {"list": pa.list_(pa.string()), "dictionary": pa.dictionary(pa.int32(), pa.string())}
    column = pa.array(values, kinds.get(kind) or getattr(pa, kind)())
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    if isinstance(expected, list):
        assert read_documents(tmp_path) == expected
    else:
        with pytest.raises(DataError, match=expected):
            read_documents(tmp_path)


def test_conversations_of_a_parquet_file(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    parquet.write_table(pa.table({"id": [1], "messages": [turns]}), tmp_path / "a.parquet")
    assert read_documents(tmp_path, converse=lambda t: t[1]["content"]) == ["hello"]


def test_a_table_without_the_column_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,body\n1,x\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column named text, only id, body"):
        read_documents(tmp_path)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: there is no such file or folder"):
        read_documents(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [None, "", "  \n\t"])
def test_no_text_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"no text in it; expected files ending in \.txt"):
        read_documents(tmp_path)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(DataError, match="unknown kind of file"):
        read_documents(tmp_path / "a.docx")


MARKED = ["utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", MARKED)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, name, encoding):
    text = {"a.txt": "olá 漢", "a.csv": "text\nolá 漢\n"}.get(name, '{"text": "olá 漢"}')
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert read_documents(tmp_path) == ["olá 漢"]
    assert read_documents(tmp_path, Format(encoding="latin-1")) == ["olá 漢"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_text_that_is_not_utf8_is_named(tmp_path, name):
    (tmp_path / name).write_bytes('{"text": "olá"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}: not UTF-8 .* --encoding latin-1"):
        read_documents(tmp_path)
    with pytest.raises(DataError, match=rf"{name}: not ascii text .* as --encoding says"):
        read_documents(tmp_path, Format(encoding="ascii"))


@pytest.mark.parametrize("name", ["utf-9", "rot13", "hex", "a\0b"])
def test_an_unknown_encoding_is_refused(name):
    with pytest.raises(ConfigError, match="no such encoding"):
        Format(encoding=name)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv", "a.tsv", "a.md"])
def test_a_binary_file_under_a_text_name_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"text": "a\0b"}\n')
    with pytest.raises(DataError, match=rf"{name}: holds NUL bytes: a binary file"):
        read_documents(tmp_path)


BAD_TURNS = [None, [], "hi", [3], [{"role": "user"}], [{"role": "user", "content": None}]]


@pytest.mark.parametrize("turns", BAD_TURNS)
def test_a_conversation_that_is_none_is_named(tmp_path, turns):
    jsonl(tmp_path / "a.jsonl", {"messages": turns})
    with pytest.raises(DataError, match=r"a\.jsonl:1: messages must be a list of"):
        read_documents(tmp_path, converse=str)


def test_a_conversation_needs_a_chat_template(tmp_path, base):
    turns = [{"role": "user", "content": "hi"}]
    jsonl(tmp_path / "a.jsonl", {"messages": turns})
    with pytest.raises(DataError, match=r"a\.jsonl:1: a conversation; only a base's chat template"):
        read_documents(tmp_path)
    tokenizer = copy.deepcopy(base.tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"a\.jsonl:1: .* the base has no chat template"):
        read_documents(tmp_path, converse=chat_template(tokenizer))
    turn = "<{{ m.role }}>{{ m.content }}"
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}"
    tokenizer.bos_token = tokenizer.eos_token  # and that opens a document, so not twice
    (document,) = read_documents(tmp_path, converse=chat_template(tokenizer))
    ids = TextTokenizer(tokenizer, resolve(tokenizer)).document(document)
    assert tokenizer.decode(ids) == f"{tokenizer.eos_token}<user>hi"
    tokenizer.chat_template = "{{ raise_exception('no system turns') }}"
    with pytest.raises(DataError, match=r"a\.jsonl:1: the base's chat template refuses it: no sys"):
        read_documents(tmp_path, converse=chat_template(tokenizer))
