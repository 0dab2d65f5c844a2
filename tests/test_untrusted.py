"""Files of strangers: read within bounds, parsed to plain values, their types checked."""

from __future__ import annotations

import json
import os

import pytest

from taskarith.untrusted import (
    MalformedError,
    check_fields,
    check_value,
    is_count,
    is_number,
    open_regular,
    parse_json,
    parse_yaml,
    read_bytes,
    read_text,
)


@pytest.mark.timeout(20)
def test_only_regular_files_are_read_and_no_more_than_asked_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"ab\xff")
    for name in ("pipe", ".", "loop", "absent"):
        with pytest.raises(MalformedError):
            read_bytes(tmp_path / name)
    with pytest.raises(MalformedError, match="not a regular file"):
        open_regular(tmp_path / "pipe")
    assert read_bytes(tmp_path / "file", 3) == b"ab\xff"
    with pytest.raises(MalformedError, match="3 bytes, more than the 2"):
        read_bytes(tmp_path / "file", 2)
    with pytest.raises(MalformedError, match=r"not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting"),
        (b"\xff", "not UTF-8"),
        ("[" * 101 + "]" * 101, "nested more than 100 levels"),
        ("[" * 10**6, "nested too deeply"),
        ('{"\\ud800": 1}', "half of a surrogate pair"),
        ("1" + "0" * 400, "larger than any float"),
    ],
)
def test_json_that_programs_stumble_over_is_refused(text, words):
    with pytest.raises(MalformedError, match=words):
        parse_json(text)


def test_json_is_what_json_makes_of_it():
    value = {"a": [1, 2.5, None, True, "é😀", 1 << 70], "b": {}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json('{"a": 1, "a": 2}', list) == [("a", 1), ("a", 2)]


def test_yaml_is_plain_values_only():
    assert parse_yaml("a: [1, x]\nb: {c: 0.5}") == {"a": [1, "x"], "b": {"c": 0.5}}
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join([f'*{b}'] * 9)}]\n" for b, c in zip("abcd", "bcde", strict=True)
    )
    for text, words in (
        (bomb, "more than 10000 values"),
        ("a: [", "expected"),
        ("!!python/name:os.system", "python/name"),
        ("[" * 200 + "]" * 200, "nested"),
    ):
        with pytest.raises(MalformedError, match=words):
            parse_yaml(text)


def test_values_are_counted_in_each_place():
    check_value([[1, 2], [3]], 5)
    with pytest.raises(MalformedError, match="more than 4 values"):
        check_value([[1, 2], [3]], 4)


def test_numbers_and_counts_are_no_truth_values():
    assert [is_number(one) for one in (1, 0.5, True, "1", float("nan"), float("inf"))] == [True, True, *[False] * 4]
    assert [is_count(one) for one in (0, (1 << 63) - 1, 1 << 63, -1, True, 1.0)] == [True, True, *[False] * 4]


def test_a_field_of_another_type_is_named_and_a_missing_one_is_not():
    check_fields({"a": 1, "b": None}, {"a": is_count, "b": is_count, "c": is_count})
    with pytest.raises(MalformedError, match="'a' cannot be 'x'"):
        check_fields({"a": "x"}, {"a": is_count})
