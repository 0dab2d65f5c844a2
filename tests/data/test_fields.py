"""Values of a row: text that must be there, and lists that may be written as JSON."""

from __future__ import annotations

import pytest

from taskarith.data.fields import filled_field, list_field, parse_json, text_field
from taskarith.errors import DataError


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (text_field, None, "a of row 1 is missing"),
        (text_field, 3, "of type int, not text"),
        (text_field, "x\ud800", "half of a surrogate pair"),
        (filled_field, " \n", "is empty"),
        (list_field, "x", "not a list of objects"),
        (list_field, 3, "not a list of objects"),
        (list_field, [1], "not a list of objects"),
    ],
)
def test_what_is_not_there_or_of_another_type_is_refused(read, value, words):
    with pytest.raises(DataError, match=words):
        read({"a": value}, "a", "row 1")


def test_text_is_taken_as_it_is():
    assert text_field({"a": ""}, "a", "row 1") == ""
    assert filled_field({"a": " ü "}, "a", "row 1") == " ü "


def test_a_list_may_be_json_and_so_may_its_objects():
    for value in ([{"b": 1}], '[{"b": 1}]', ['{"b": 1}'], ({"b": 1},)):
        assert list_field({"a": value}, "a", "row 1") == [{"b": 1}]
    assert [list_field({"a": value}, "a", "row 1") for value in (None, " ", [])] == [[], [], []]
    assert [parse_json(text) for text in ("[1]", "x", "[" * 10**6)] == [[1], "x", "[" * 10**6]
