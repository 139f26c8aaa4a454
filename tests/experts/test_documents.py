import csv
import json

import pytest

from fedmore.experts.documents import read_documents
from fedmore.experts.errors import DataError


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


@pytest.mark.parametrize("line", ["{broken", '{"body": "x"}', '["text"]', "3", '{"text": null}'])
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


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\x13 nonsense \xfe"])
def test_a_broken_table_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_documents(tmp_path)


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


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_text_that_is_not_utf8_is_named(tmp_path, name):
    (tmp_path / name).write_bytes('{"text": "olá"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}: not UTF-8"):
        read_documents(tmp_path)
