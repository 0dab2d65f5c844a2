"""Files of rows and of plain text, field by field; what is neither is refused."""

from __future__ import annotations

import csv

import pytest

from taskarith.data.documents import Document
from taskarith.data.load import load_data
from taskarith.errors import DataError


def test_csv_fields_may_be_long_and_hold_any_character(tmp_path):
    chapter = "river \u2028 stone\x0c\n" * 20_000
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "note"], [chapter, ""], ["NA", "x"]])
    assert [document.text for document in load_data(str(tmp_path / "rows.csv")).documents] == [chapter, "NA"]
    assert csv.field_size_limit() == 131_072  # the process's own limit is back


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.csv", b'text\n"The keeper, who was old, lit it."\n', ["The keeper, who was old, lit it."]),
        ("a.CSV", b'\xef\xbb\xbftext,n\r\n"two\r\nlines ""here""",1\r\n\r\nb,\r\n', ['two\nlines "here"', "b"]),
        ("a.csv", b",text\n0,a\n1,b\n", ["a", "b"]),  # as pandas writes its index
        ("a.csv", b"text,,\na,,\n", ["a"]),
        ("a.tsv", b"n\ttext\n1\tThe keeper, who was old\n2\tb; c\n", ["The keeper, who was old", "b; c"]),
        ("a.TSV", b'text\tn\n"a\tb"\t1\n', ["a\tb"]),
    ],
)
def test_tables_are_read_field_by_field(tmp_path, name, content, texts):
    (tmp_path / name).write_bytes(content)
    assert [document.text for document in load_data(str(tmp_path / name)).documents] == texts


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("cut.csv", b"text\na\nThe keeper, old, lit it.\n", r"line 3 of .*cut\.csv has 3 fields, .* 1: text", "quotes"),
        ("cut.csv", b'text,n\n"a\nb",1\n\nc, d,1\n', r"line 5 of .* has 3 fields, .* has 2: text, n", "quotes"),
        ("cut.csv", b'text\na\n"b\nc",d\n', r"line 3 of .* has 2 fields", "quotes"),  # where it begins
        ("short.csv", b"text,n\na\n", r"line 2 of .* has 1 field, but the header has 2", "stay empty"),
        ("cut.tsv", b"text\nThe keeper\told\n", r"line 2 of .* has 2 fields, .* has 1: text", "tabs"),
        (
            "bare.csv",
            b"text,\nThe keeper, old\n",
            "field 2 of line 2 of .* is ' old', but its column has no name",
            "",
        ),
        ("twice.csv", b"text,n,text\na,1,b\n", "repeats the column text", "Rename"),
        ("semicolons.csv", b"prompt;completion\na;b\n", "separated by semicolons, not by commas", ".tsv"),
        ("tabs.csv", b"prompt\tcompletion\na\tb\n", "separated by tabs, not by commas", ".tsv"),
        ("commas.tsv", b"prompt,completion\na,b\n", "separated by commas, not by tabs", ".csv"),
        ("header.csv", b"text,n\n", "has no text", "at least one row"),
        ("empty.tsv", b"\n", "has no text", "at least one row"),
        ("quote.tsv", b'text\n"a" b\n', r"not a valid TSV file: line 2", "written twice"),
    ],
)
def test_tables_with_lost_fields_are_refused(tmp_path, name, content, message, hint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_data(str(tmp_path / name))
    assert hint in raised.value.hint


def test_parquet_with_a_column_twice_is_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="repeats the column text"):
        load_data(str(tmp_path / "rows.parquet"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("rows.jsonl.gz", "a compressed file"),
        ("rows.csv.ZIP", "a compressed file"),
        ("rows.xlsx", "a spreadsheet"),
        ("book.pdf", "a document with a layout"),
        ("book.docx", "a document with a layout"),
        ("data-00000-of-00001.arrow", "a table"),
        ("rows.jsonlines", "a file of rows under another name"),
    ],
)
def test_other_formats_are_not_read_as_plain_text(tmp_path, name, what):
    (tmp_path / name).write_text("words", encoding="utf-8")
    with pytest.raises(DataError, match=rf"{name} is {what}.*, not plain text") as raised:
        load_data(str(tmp_path / name))
    assert raised.value.hint
    with pytest.raises(DataError, match="there is no file"):
        load_data(f"absent/{name}")


@pytest.mark.parametrize("content", ['\n{"text": "a"}\n{"text": "b"}\n', '[\n {"text": "a"}\n]\n'])
def test_rows_are_not_read_as_plain_text(tmp_path, content):
    (tmp_path / "rows.txt").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.txt contains JSON objects") as raised:
        load_data(str(tmp_path / "rows.txt"))
    assert "rows.jsonl" in raised.value.hint


@pytest.mark.parametrize("text", ["{a} brace\n", "[1] A footnote.\n", '"text"\n', "{\n}\n", "[{x}]"])
def test_plain_text_may_begin_with_a_bracket(tmp_path, text):
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    assert load_data(str(tmp_path / "book.txt")).documents == (Document("book.txt", text),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n", "has no text"),
        ("latin.txt", "caf\u00e9".encode("latin-1"), r"latin\.txt is not UTF-8 text \(byte 3\)"),
        ("wide.txt", "ab".encode("utf-16-le"), "null characters"),
        ("empty.jsonl", b"\n\n", "has no text"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2 of .*bad\.jsonl is not JSON"),
        ("list.jsonl", b'"text"\n', "line 1 of .* is not a JSON object"),
        ("deep.json", b"[" * 100_000, "not valid JSON"),
        ("numbers.json", b"[1, 2]", "row 1 of .* is not a JSON object"),
        ("odd.jsonl", b'{"body": "a", "n": 1}\n', "has the columns body, n instead of text"),
        ("number.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"text of number\.jsonl:2 is of type int"),
        ("missing.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"text of missing\.jsonl:2 is missing"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "half of a surrogate pair"),
        ("blank.jsonl", b'{"prompt": "a", "completion": " "}\n', r"completion of blank\.jsonl:1 is empty"),
        (
            "short.csv",
            b"prompt,completion\na\n",
            r"line 2 of .*short\.csv has 1 field, but the header has 2: prompt, completion",
        ),
        ("quote.csv", b'text\n"a\n', r"not a valid CSV file: line 2"),
        ("no.parquet", b"PAR1", "not a valid parquet"),
        ("user.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}\n', "has the role 'user'"),
        ("chat.jsonl", b'{"messages": "a"}\n', "not a list of messages"),
        (
            "part.jsonl",
            b'{"messages": [{"role": "assistant"}]}\n',
            r"content of message 1 of part\.jsonl:1 \(assistant\) is missing",
        ),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_data(str(tmp_path / name))
    assert raised.value.hint
