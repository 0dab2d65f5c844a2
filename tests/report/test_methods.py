"""The figure of several methods and seeds: what is one curve, where its bands end, and what cannot be drawn."""

from __future__ import annotations

import pytest
from commands import invoke

from taskarith.errors import UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.metrics.intervals import Estimate, Spread
from taskarith.evaluation.score import Scores
from taskarith.report import methods


def scores(**rows):
    by_text = {
        name.replace("_at_", " alpha="): {text: {"loss": number} for text, number in texts.items()}
        for name, texts in rows.items()
    }
    empty = {name: {} for name in by_text}
    return Scores(tuple(by_text), ("forget", "retain", "wiki"), by_text, empty, empty)


def loss(value, half=0.1):
    return Estimate(value, value - half, value + half, 9)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    def draw(found):
        figures = []
        monkeypatch.setattr(methods, "publish_figure", lambda make, *_: figures.append(make()))
        methods.plot_methods(found, tmp_path / "f.svg")
        return figures[0]

    return draw


def test_a_method_is_one_curve_whatever_the_order_of_its_alphas(drawn):
    found = scores(
        a_at_1={"forget": loss(3.0), "retain": loss(2.2), "wiki": loss(4.2, 0.3)},
        b_at_1={"forget": loss(2.5), "retain": loss(2.0)},
        a_at_0={"forget": loss(1.0), "retain": loss(2.0), "wiki": loss(4.0)},
        never={"forget": loss(2.8), "retain": loss(2.1)},
        other={"wiki": loss(4.0)},
    )
    left, right = drawn(found).axes
    curves = [line.get_xydata().tolist() for line in left.lines]
    assert curves[:2] == [[[0.0, 1.0], [1.0, 3.0]], [[1.0, 2.5]]]
    assert curves[2] == [[0, 2.8], [1, 2.8]]  # dashed, over the whole width
    assert {line.get_label(): line.get_xydata().tolist() for line in right.lines if line.get_label()[0] != "_"} == {
        "a": [[1.0, 3.0], [3.0, pytest.approx(3.2)]],
        "b": [[2.5, 2.0]],
        "never": [[2.8, 2.1]],
    }
    ends = left.collections[0].get_paths()[0].vertices
    assert (ends[:, 1].min(), ends[:, 1].max()) == (pytest.approx(0.9), pytest.approx(3.1))
    assert "95% intervals" in left.get_title(loc="left")


def test_bands_over_seeds_are_standard_deviations(drawn):
    found = scores(a_at_1={"forget": Spread(3.0, 0.5, 3), "retain": Spread(2.0, None, 3)})
    left, right = drawn(found).axes
    ends = left.collections[0].get_paths()[0].vertices
    assert (ends[:, 1].min(), ends[:, 1].max()) == (2.5, 3.5)
    assert "one standard deviation over seeds" in left.get_title(loc="left")
    assert right.collections[1].get_segments()[0].tolist() == [[3.0, 2.0], [3.0, 2.0]]


@pytest.mark.parametrize("texts", [{}, {"forget": loss(1.0)}, {"retain": loss(1.0)}])
def test_what_has_no_two_losses_cannot_be_drawn(texts, tmp_path):
    with pytest.raises(UsageError, match="nothing to plot"):
        methods.plot_methods(scores(a=texts), tmp_path / "f.svg")
    assert not list(tmp_path.iterdir())


def test_score_plots_records(tmp_path, phi, phi_tuned, book):
    data = {"forget": str(book), "retain": str(book)}
    for seed in (1, 2):
        evaluate([str(phi), str(phi_tuned)], data, output_dir=tmp_path / f"s{seed}", prompts=0, block_size=32)
    runs = [tmp_path / "s1", tmp_path / "s2"]
    done = invoke("score", *runs, "--seeds", "--plot", tmp_path / "f.pdf")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")
    for name, words in (("f.pdf", "already exists"), ("f.jpg", "Name a .svg, .png or .pdf file")):
        assert words in invoke("score", *runs, "--plot", tmp_path / name).stderr
    assert invoke("score", *runs, "--plot", tmp_path / "f.pdf", "--overwrite").exit_code == 0
