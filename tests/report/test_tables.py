"""Tables as rows of text: pieces that fit, and names that stay apart."""

from __future__ import annotations

from taskarith.report.tables import TableRows, fitted, short_names


def test_a_wide_table_comes_in_pieces_with_the_first_column_in_each():
    columns = ("model", *(f"{letter * 40}" for letter in "abc"))
    table = TableRows("title", columns, (("m", "1", "2", "3"),))
    pieces = fitted(table)
    assert [piece.title for piece in pieces] == ["title", "title, continued"]
    assert [piece.columns for piece in pieces] == [columns[:3], (columns[0], columns[3])]
    assert [piece.rows for piece in pieces] == [(("m", "1", "2"),), (("m", "3"),)]


def test_a_column_that_is_too_wide_alone_is_a_piece_of_its_own():
    table = TableRows("title", ("m", "a", "b"), (("m", "x" * 200, "1"),))
    assert [piece.columns for piece in fitted(table)] == [("m", "a"), ("m", "b")]
    narrow = TableRows("title", ("m", "a"), (("m", "1"),))
    assert fitted(narrow) == [narrow]


def test_names_are_short_unless_two_would_be_the_same():
    assert short_names(["runs/a", "org/b"]) == {"runs/a": "a", "org/b": "b"}
    assert short_names(["one/a", "two/a"]) == {"one/a": "one/a", "two/a": "two/a"}
    (cut,) = short_names(["runs/a_model_with_a_long_name"]).values()
    assert (len(cut), cut[:5], cut[-5:]) == (18, "a_mod", "_name")
