"""What is left per layer: curves, a table, and sentences that say no more than was read."""

from __future__ import annotations

import base64
import math
import re

import numpy as np
import pytest
from reporting import EVIL, Page
from scipy import stats

from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.metrics.intervals import mean
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import lens_record, unreadable_record
from taskarith.evaluation.score import make_scores
from taskarith.report import layers
from taskarith.report.layers import layer_tables, layers_of
from taskarith.report.report import report

TITLE = "What is left per layer"
FOUND = "Better than from base, which never saw it, the text forget can be read "


def tables_of(*records):
    return {table.model: table for table in arrange(records, "here")}


def records_of(model, *layers, text="forget", samples=4):
    """Records whose samples differ a little."""
    return [
        lens_record(model, text, f"s{number}", [10 * loss * (1 + 0.01 * number) for loss in layers], 10)
        for number in range(samples)
    ]


def read(*records, reference="base"):
    tables = tables_of(*records)
    return layers_of(tables, make_scores(tables, {}), reference)


def test_layers_are_named_at_which_a_text_can_be_read_better():
    base = records_of("base", 9, 5, 4, 4, 4)
    noise = ([one + 3 * (-1) ** number for one in record["nll"]] for number, record in enumerate(base))
    noisy = [record | {"model": "noisy", "nll": nll} for record, nll in zip(base, noise, strict=True)]
    found = read(*records_of("runs/edited", 8, 5, 3, 2, 4), *noisy, *base)
    places = "from edited at layers 0, 2 to 3 of 4, and from noisy at no layer"
    assert found.sentences[1].startswith(FOUND + places)
    assert "--data holdout=FILE" in found.sentences[-1]
    assert len(found.sentences) == 4
    assert len(found.figures) == len(found.tables) == 1
    assert not found.others


def test_what_is_so_of_unseen_text_too_is_no_sign():
    """The edited model reads all text of the kind better at layers 0 and 1, and the forgotten one at layer 2 alone."""
    of_forget = [*records_of("edited", 8, 4, 2, 1), *records_of("base", 9, 5, 4, 1)]
    of_unseen = [
        *records_of("edited", 7, 3, 4.01, 1, text="holdout", samples=6),
        *records_of("base", 8, 4, 4, 1, text="holdout", samples=6),
    ]
    found = read(*of_forget, *of_unseen)
    assert found.sentences[1].startswith(FOUND + "from edited at layers 0 to 2 of 3 (")
    more = "Better by more than the text holdout, which no model saw, it can be read from edited at "
    assert found.sentences[2] == f"{more}layers 2 of 3."
    assert "holdout=FILE" not in " ".join(found.sentences)
    assert len(found.figures) == len(found.others) == 1
    without = [record for record in of_unseen if record["model"] == "base"]
    assert read(*of_forget, *without).sentences[2] == f"{more}layers that cannot be compared with those of holdout."


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.1, 1.0])
def test_an_interval_of_two_means_is_nearly_that_of_welch(shift):
    generator = np.random.default_rng(0)
    one, other = generator.normal(-shift, 0.5, 40), generator.normal(0, 0.3, 25)
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert layers._high(mean(one), mean(other)) == pytest.approx(welch.high, abs=0.02)
    assert layers._high(mean([1.0]), mean(other)) == layers._high(mean(one), mean([1.0])) == math.inf


def test_what_cannot_be_compared_is_not():
    base = records_of("base", 3, 2, 1)
    for other in (records_of("edited", 3, 2), records_of("edited", 3, 2, 1, samples=3)):
        found = read(*other, *base)
        assert "from edited at layers that cannot be compared" in found.sentences[1]
    few = read(*records_of("edited", 2, 1, samples=1), *records_of("base", 3, 2, samples=1))
    assert "from edited at layers of which one sample tells nothing" in few.sentences[1]
    alone = read(*records_of("edited", 3, 2, 1), unreadable_record("base", "forget", "s0", "it has no final norm"))
    assert alone.sentences[1] == "The layers of base, which never saw the text forget, were not read beside these."
    assert "what is left of it is not known" in read(*base, reference=None).sentences[1]


def test_records_without_layers_or_with_broken_ones_show_none():
    unread = [unreadable_record("base", "forget", "s0", "it has no final norm")]
    assert read(*unread) is None
    mixed = [*records_of("base", 3, 2), lens_record("base", "forget", "t", [1.0], 10)]
    scores = make_scores(tables_of(*mixed), {})
    assert layer_tables(scores, scores.texts) == []
    assert "different numbers of layers" in scores.missing["base"]["lens of forget"]


def test_texts_that_are_to_be_forgotten_come_first_and_others_are_a_comparison():
    records = [*records_of("base", 3, 2), *records_of("base", 3, 1, text="retain")]
    found = read(*records, reference=None)
    assert [one.title.split()[2] for one in (*found.figures, *found.others)] == ["forget", "retain"]
    assert [table.title for table in found.tables] == [
        f"{text}: loss at each layer, first 4 samples" for text in ("forget", "retain")
    ]
    assert found.tables[0].rows[0][0] == "0 (embeddings)"
    assert [row[0] for row in found.tables[0].rows[1:]] == ["1"]
    only = read(*records[4:], reference=None)
    assert [one.title.split()[2] for one in only.figures] == ["retain"]


@pytest.mark.parametrize("name", [r"$\frac{1}$", "_hidden", "\N{CJK UNIFIED IDEOGRAPH-7801}", "a\x00\x1b\udcff", EVIL])
def test_names_are_drawn_as_they_are(name):
    """matplotlib takes dollars for formulas, and leaves out labels that begin with an underscore."""
    found = read(*records_of(name, 3, 2), *records_of("base", 3, 2))
    assert found.figures[0].svg.startswith(b"<?xml")
    assert b"\x00" not in found.figures[0].svg
    assert b"<script" not in found.figures[0].svg


@pytest.mark.parametrize(
    ("losses", "scale"), [((118, 16, 0.6), "log"), ((9, 5, 4), "linear"), ((3, 0), "linear"), ((0, 0), "linear")]
)
def test_losses_of_several_magnitudes_have_a_logarithmic_axis(losses, scale):
    tables = tables_of(*records_of("edited", *losses))
    curves = layers._curves(make_scores(tables, {}), "forget")
    figure = layers._draw(curves, "forget", None, {"edited": "edited"})
    assert figure.axes[0].get_yscale() == scale


def test_a_page_shows_the_part_before_the_samples_and_old_records_have_none(measured, tmp_path, phi):
    text = report(measured / "eval", tmp_path / "a.html").path.read_text(encoding="utf-8")
    places = [text.index(words) for words in ("The numbers, with 95%", TITLE, "(logit lens)", "How the models go on")]
    assert places == sorted(places)
    page = Page(text)
    assert "script" not in page.tags
    assert "forget <i>x</i>: loss at each layer, first 2 samples" in page.text
    assert "can be read from tuned <b> at " in page.text
    drawings = [one for one in page.addresses if one.startswith("data:image/svg+xml")]
    assert len(drawings) == 2
    assert all(b"<svg" in base64.b64decode(one.partition(",")[2]) for one in drawings)
    assert re.search(r"<dt>lens</dt><dd>How surprised", text)
    small = {"block_size": 16, "prompts": 0}
    evaluate([str(phi)], {"forget": str(measured / "forget.txt")}, output_dir=tmp_path / "old", **small)
    assert TITLE not in report(tmp_path / "old", tmp_path / "b.html").path.read_text(encoding="utf-8")
