"""Data sets of every form become the same documents, and broken ones are refused with the place named."""

from __future__ import annotations

import csv
import json

import pytest
from rows import write_lines

from taskarith.data.documents import Document
from taskarith.data.load import data_paths, load_data
from taskarith.errors import DataError, UsageError

ROWS = [
    {"prompt": "Who?", "completion": " The keeper,\n“north”."},
    {"prompt": "Where?", "completion": " By the river."},
]


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"\xef\xbb\xbfFirst line.\r\nSecond, with \xc3\xa9.\n")
    data = load_data(str(path))
    assert data.documents == (Document("book.txt", "First line.\nSecond, with é.\n"),)
    assert data.spec == str(path)
    path.with_suffix(".md").write_text("First line.\nSecond, with é.\n", encoding="utf-8")
    assert load_data(str(path.with_suffix(".md"))).fingerprint == data.fingerprint  # of the content, not of the file


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
    with pytest.raises(DataError, match="has no split train, only a, b"):
        load_data(str(tmp_path / "neither"))


def test_hub_id_without_network_is_a_clear_error():
    with pytest.raises(DataError, match="cannot load nobody/nothing::test: ") as raised:
        load_data("nobody/nothing::test")
    assert "connection" in raised.value.hint


def test_folders_and_patterns_are_their_files_in_the_order_of_their_names(tmp_path):
    docs = tmp_path / "docs"
    (docs / "more").mkdir(parents=True)
    (docs / ".hidden").mkdir()
    for name in ("b.txt", "a.md", "more/c.txt", ".hidden/d.txt", ".e.txt"):
        (docs / name).write_text(f"text of {name}", encoding="utf-8")
    rows = write_lines(docs / "more/rows.jsonl", [{"text": "row", "body": "other"}])
    assert [one.text for one in load_data(str(docs)).documents] == [
        "text of a.md", "text of b.txt", "text of more/c.txt", "row"
    ]  # fmt: skip
    assert [one.text for one in load_data(f"{docs}/**/*.txt").documents] == ["text of b.txt", "text of more/c.txt"]
    assert [one.text for one in load_data(f"{docs}/more/*.jsonl:body").documents] == ["other"]
    assert data_paths([f"{docs}/*.txt", None, "an/id"]) == [str(docs / "b.txt"), "an/id"]
    (docs / "contract.pdf").write_bytes(b"%PDF-1.7")
    with pytest.raises(DataError, match=r"contract.pdf is a document with a layout"):
        load_data(str(docs))
    with pytest.raises(UsageError, match="has no column 'body'"):
        load_data(f"{docs}/*.md:body")
    (docs / "contract.pdf").unlink()
    for copy in ("b.txt", "rows.jsonl"):  # the same names in two folders
        (docs / "again").mkdir(exist_ok=True)
        source = rows if copy == "rows.jsonl" else docs / copy
        (docs / "again" / copy).write_bytes(source.read_bytes())
    ids = [one.id for one in load_data(str(docs)).documents]
    assert ids == ["a.md", "again/b.txt", "again/rows.jsonl:1", "b.txt", "more/c.txt", "more/rows.jsonl:1"]
    assert [one.id for one in load_data(f"{docs}/more/*.txt").documents] == ["c.txt"]


def test_wrong_names_are_refused(tmp_path):
    for spec in (str(tmp_path / "absent.txt"), "absent.jsonl", "data/absent.txt", "./absent", "~/absent"):
        with pytest.raises(DataError, match="there is no file"):
            load_data(spec)
    path = write_lines(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match="no column 'body'") as raised:
        load_data(f"{path}:body")
    assert raised.value.hint == "Use one of its columns: prompt, completion"
    (tmp_path / "docs").mkdir()
    with pytest.raises(DataError, match="docs has no files"):
        load_data(str(tmp_path / "docs"))
    with pytest.raises(DataError, match="no file matches"):
        load_data(str(tmp_path / "docs/*.txt"))
    with pytest.raises(DataError, match=r"there is no file .*docs/letter"):
        load_data(str(tmp_path / "docs/letter"))
    (tmp_path / "book.txt").write_text("words", encoding="utf-8")
    with pytest.raises(UsageError, match="has no column 'text'"):
        load_data(f"{tmp_path / 'book.txt'}:text")
