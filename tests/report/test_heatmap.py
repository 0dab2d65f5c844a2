"""The picture of cosines: the same numbers give the same file, and a zero vector has no number."""

from __future__ import annotations

import pytest
from relating import relation

from taskarith.errors import OutputError
from taskarith.report.heatmap import _draw, plot_relations


def test_a_picture_depends_on_the_numbers_alone(tmp_path):
    for name in ("a.svg", "b.svg", "a.png"):
        plot_relations(relation(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(OutputError, match="already exists"):
        plot_relations(relation(), tmp_path / "a.svg")
    plot_relations(relation(), tmp_path / "a.svg", overwrite=True)


def test_cosines_are_written_into_both_maps():
    by_kind, by_layer, *_ = _draw(relation()).axes
    assert [text.get_text() for text in by_kind.texts] == ["0.04", "-0.50", "1.00", "-0.50"]
    assert [text.get_text() for text in by_layer.texts] == ["-0.50"]
    first, *_ = _draw(relation(zero=True)).axes
    assert {text.get_text() for text in first.texts} == {"-"}
