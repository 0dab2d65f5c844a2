"""The figure: the same numbers give the same file, and every number asked for is drawn."""

from __future__ import annotations

import struct

import pytest
from matplotlib.figure import Figure

from taskarith.errors import OutputError
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.report.plot import AlphaCurves, band, draw_svg, plot_alphas, publish_figure


def curves(recommended=0.5):
    def score(loss, rouge):
        numbers = {"loss": loss, "accuracy": 0.5, "rouge_l_f1": rouge}
        return {name: Estimate(value, None, None, 16) for name, value in numbers.items() if value is not None}

    return AlphaCurves(
        alphas=[0.0, 0.5, 1.0],
        scores={"forgotten": [score(0.2, 0.6), score(2.0, 0.2), score(4.5, 0.1)], "kept": [score(0.1, None)] * 3},
        base={"forgotten": score(4.0, 0.15), "kept": score(3.0, None)},
        recommended=recommended,
        title="A title & more",
    )


def test_svg_and_png_are_written_and_depend_on_the_numbers_alone(tmp_path):
    svg, png = plot_alphas(curves(), tmp_path / "a")
    again, _ = plot_alphas(curves(), tmp_path / "b")
    other, _ = plot_alphas(curves(recommended=None), tmp_path / "c")
    assert svg.read_bytes() == again.read_bytes()
    assert svg.read_bytes() != other.read_bytes()
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png.read_bytes()[16:24]) == (1650, 630)


def test_what_is_drawn_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("taskarith.report.plot.STYLE", {"svg.fonttype": "none", "svg.hashsalt": "x"})
    svg, _ = plot_alphas(curves(), tmp_path / "a")
    text = svg.read_text()
    for words in ("A title &amp; more", "forgotten", "kept", "recommended alpha, 0.5", "Loss (nats per token)"):
        assert words in text


def test_a_pdf_of_ours_is_replaced_and_any_other_is_not(tmp_path):
    def draw():
        return Figure(figsize=(1, 1))

    path = tmp_path / "m.pdf"
    publish_figure(draw, path, overwrite=False)
    first = path.read_bytes()
    assert first.startswith(b"%PDF-")
    publish_figure(draw, path, overwrite=True)
    assert path.read_bytes() == first  # without a date
    path.write_bytes(first.replace(b"taskarith", b"a human 1"))
    with pytest.raises(OutputError):
        publish_figure(draw, path, overwrite=True)


def test_a_drawing_in_memory_depends_on_what_is_drawn_alone():
    def draw(text):
        figure = Figure(figsize=(2, 1))
        figure.text(0, 0, text)
        return figure

    assert draw_svg(lambda: draw("a")) == draw_svg(lambda: draw("a")) != draw_svg(lambda: draw("b"))
    assert b"<svg" in draw_svg(lambda: draw("\N{CJK UNIFIED IDEOGRAPH-7801}"))  # which the font lacks


def test_the_band_of_a_number_without_an_interval_is_the_number():
    assert band(Estimate(2.0, 1.0, 3.0, 4)) == (1.0, 3.0)
    assert band(Estimate(2.0, None, None, 1)) == (2.0, 2.0)
