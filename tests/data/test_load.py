"""Data sets of every form become the same documents, and broken ones are refused with the place named."""

from __future__ import annotations

import csv
import json

import pytest

from taskarith.data.documents import Document
from taskarith.data.load import load_data
from taskarith.errors import DataError, UsageError

ROWS = [
    {"prompt": "Who?", "completion": " The keeper,\n“north”."},
    {"prompt": "Where?", "completion": " By the river."},
]


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    return path


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfFirst line.\r\nSecond, with \xc3\xa9.\n")
    data = load_data(str(path))
    assert data.documents == (Document("book.txt", "First line.\nSecond, with é.\n"),)
    assert data.spec == str(path)
    path.with_suffix(".md").write_text("First line.\nSecond, with é.\n", encoding="utf-8")
    assert load_data(str(path.with_suffix(".md"))).fingerprint == data.fingerprint  # of the content, not of the file


@pytest.mark.parametrize(
    ("row", "document"),
    [
        ({"text": "a b"}, Document("rows.jsonl:1", "a b")),
        ({"prompt": "a", "completion": "b", "id": 7}, Document("rows.jsonl:1", "b", prompt="a")),
        ({"question": "Who?", "answer": "Me."}, Document("rows.jsonl:1", " Me.", prompt="Question: Who?\nAnswer:")),
        (
            {"messages": [{"role": "user", "content": "hi", "name": None}, {"role": "assistant", "content": "yo"}]},
            Document(
                "rows.jsonl:1",
                "yo",
                messages=({"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}),
            ),
        ),
    ],
    ids=["text", "completion", "question", "chat"],
)
def test_columns_tell_what_a_row_holds(tmp_path, row, document):
    assert load_data(str(write_lines(tmp_path / "rows.jsonl", [row]))).documents == (document,)


def test_a_json_list_of_strings_is_a_list_of_texts(tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(["one", "two"]), encoding="utf-8")
    documents = (Document("texts.json:1", "one"), Document("texts.json:2", "two"))
    assert load_data(str(tmp_path / "texts.json")).documents == documents


def test_every_row_format_gives_the_same_data_set(tmp_path):
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    lines = load_data(str(write_lines(tmp_path / "rows.jsonl", ROWS)))
    assert [document.id for document in lines.documents] == ["rows.jsonl:1", "rows.jsonl:2"]
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"])
        writer.writeheader()
        writer.writerows(ROWS)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows[1].parquet")
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    for name in ("rows.json", "rows.csv", "rows[1].parquet", "saved"):
        other = load_data(str(tmp_path / name))
        assert [(d.prompt, d.text) for d in other.documents] == [(d.prompt, d.text) for d in lines.documents], name
        assert other.fingerprint == lines.fingerprint, name
    assert load_data(str(write_lines(tmp_path / "turned.jsonl", ROWS[::-1]))).fingerprint != lines.fingerprint


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
        ("short.csv", b"text,n\na\n", r"line 2 of .* has 1 field, but the header has 2", "stays empty"),
        ("cut.tsv", b"text\nThe keeper\told\n", r"line 2 of .* has 2 fields, .* has 1: text", "tabs"),
        (
            "bare.csv",
            b"text,\nThe keeper, old\n",
            "field 2 of line 2 of .* holds ' old', but this column has no name",
            "",
        ),
        ("twice.csv", b"text,n,text\na,1,b\n", "has a column twice: text", "Rename"),
        ("semicolons.csv", b"prompt;completion\na;b\n", "separated by semicolons, not by commas", "TSV"),
        ("tabs.csv", b"prompt\tcompletion\na\tb\n", "separated by tabs, not by commas", "TSV"),
        ("commas.tsv", b"prompt,completion\na,b\n", "separated by commas, not by tabs", "CSV"),
        ("header.csv", b"text,n\n", "has no text", "at least one row"),
        ("empty.tsv", b"\n", "has no text", "at least one row"),
        ("quote.tsv", b'text\n"a" b\n', r"not a sound TSV file: line 2", "written twice"),
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
    with pytest.raises(DataError, match="has a column twice: text"):
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
    with pytest.raises(DataError, match=r"rows\.txt holds JSON objects") as raised:
        load_data(str(tmp_path / "rows.txt"))
    assert "rows.jsonl" in raised.value.hint


@pytest.mark.parametrize("text", ["{a} brace\n", "[1] A footnote.\n", '"text"\n', "{\n}\n", "[{x}]"])
def test_plain_text_may_begin_with_a_bracket(tmp_path, text):
    (tmp_path / "book.txt").write_text(text, encoding="utf-8")
    assert load_data(str(tmp_path / "book.txt")).documents == (Document("book.txt", text),)


def test_named_column_wins_and_blank_rows_are_skipped(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "no", "body": "yes"}, {"text": "no", "body": " \n"}])
    data = load_data(f"{path}:body")
    assert [(document.id, document.text) for document in data.documents] == [("rows.jsonl:1", "yes")]
    chat = write_lines(tmp_path / "chat.jsonl", [{"talk": [{"role": "assistant", "content": "yes"}]}])
    assert load_data(f"{chat}:talk").documents[0].messages == ({"role": "assistant", "content": "yes"},)


def test_saved_dataset_of_several_splits(tmp_path):
    from datasets import Dataset, DatasetDict

    part = Dataset.from_dict({"text": ["here"]})
    DatasetDict({"train": part, "test": Dataset.from_dict({"text": ["there"]})}).save_to_disk(tmp_path / "both")
    assert load_data(str(tmp_path / "both")).documents[0].text == "here"
    assert load_data(str(tmp_path / "both" / "test")).documents[0].text == "there"
    DatasetDict({"a": part, "b": part}).save_to_disk(tmp_path / "neither")
    with pytest.raises(DataError, match="splits a, b and no train"):
        load_data(str(tmp_path / "neither"))


def test_hub_id_without_network_is_a_clear_error():
    with pytest.raises(DataError, match="cannot load nobody/nothing::test: ") as raised:
        load_data("nobody/nothing::test")
    assert "connection" in raised.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n", "has no text"),
        ("latin.txt", "caf\u00e9".encode("latin-1"), r"latin\.txt is not UTF-8 text \(byte 3\)"),
        ("wide.txt", "ab".encode("utf-16-le"), "null characters"),
        ("empty.jsonl", b"\n\n", "has no text"),
        ("bad.jsonl", b'{"text": "a"}\n{"text": \n', r"line 2 of .*bad\.jsonl is not JSON"),
        ("list.jsonl", b'"text"\n', "line 1 of .* is not a JSON object"),
        ("deep.json", b"[" * 100_000, "not sound JSON"),
        ("numbers.json", b"[1, 2]", "row 1 of .* is not a JSON object"),
        ("odd.jsonl", b'{"body": "a", "n": 1}\n', "has the columns body, n, and not text"),
        ("number.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"text of number\.jsonl:2 is of type int"),
        ("missing.jsonl", b'{"text": "a"}\n{"txt": "b"}\n', r"text of missing\.jsonl:2 is missing"),
        ("half.jsonl", b'{"text": "\\ud800"}\n', "half of a surrogate pair"),
        ("blank.jsonl", b'{"prompt": "a", "completion": " "}\n', r"completion of blank\.jsonl:1 is empty"),
        (
            "short.csv",
            b"prompt,completion\na\n",
            r"line 2 of .*short\.csv has 1 field, but the header has 2: prompt, completion",
        ),
        ("quote.csv", b'text\n"a\n', r"not a sound CSV file: line 2"),
        ("no.parquet", b"PAR1", "not a sound parquet"),
        ("user.jsonl", b'{"messages": [{"role": "user", "content": "a"}]}\n', "is of role 'user'"),
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


def test_wrong_names_are_refused(tmp_path):
    for spec in (str(tmp_path / "absent.txt"), "absent.jsonl", "data/absent.txt", "./absent", "~/absent"):
        with pytest.raises(DataError, match="there is no file"):
            load_data(spec)
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match="no column 'body'") as raised:
        load_data(f"{path}:body")
    assert raised.value.hint == "Its columns are: prompt, completion"
    with pytest.raises(DataError, match="not one that datasets"):
        load_data(str(tmp_path))
    (tmp_path / "book.txt").write_text("words", encoding="utf-8")
    with pytest.raises(UsageError, match="has no column 'text'"):
        load_data(f"{tmp_path / 'book.txt'}:text")
