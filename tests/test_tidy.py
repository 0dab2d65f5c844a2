"""Results as tables, and how they show themselves."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
import tiny
from reporting import EVIL, Page

import taskarith
from taskarith.tidy import COLUMNS, Brief, Tabular, TidyResult, TidyRow


class Found(TidyResult):
    def __init__(self, rows):
        self.rows = rows

    def _brief(self):
        return {"name": EVIL, "rows": len(self.rows), "share": 1 / 3, "alphas": [0.0, 0.5, 1.0, 1.5, 2.0]}

    def tidy(self):
        return self.rows


ROWS = [TidyRow("a", "forget", "loss", 1.5, 1.0, 2.0, 8), TidyRow(EVIL, "", "perplexity", math.inf, deviation=0.5)]


def test_a_table_has_one_row_a_number_and_missing_ends_are_missing():
    frame = Found(ROWS).to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert frame.loc[0, "low"] == 1.0
    assert frame["low"].isna().tolist() == [False, True]
    assert frame.loc[1, "value"] == math.inf
    assert Found([]).to_pandas().empty


def test_a_notebook_shows_text_as_text_and_not_all_of_a_long_table():
    page = Page(Found(ROWS * 50)._repr_html_())
    assert {"script", "img", "i"} & {*page.tags} == set()
    assert page.text.count(EVIL) > 20
    assert page.tags.count("tr") == 61
    assert "40 more rows" in page.text
    assert "nan" not in Found(ROWS)._repr_html_()


def test_a_result_is_one_short_line():
    class Counted(Brief):
        def _brief(self):
            return {"elements": 1_234_567, "tensors": 29, "kind": "dense", "is_exact": True}

    assert repr(Counted()) == "Counted(elements=1,234,567, tensors=29, kind='dense', is_exact=True)"
    assert repr(Found(ROWS)).endswith("rows=2, share=0.3333, alphas=[0, 0.5, 1, 1.5, and 1 more])")


def test_pandas_is_imported_when_a_table_is_wanted():
    code = "import sys, taskarith.tidy; assert 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_low_rank_extraction_is_a_table_of_its_factors(phi, phi_tuned, tmp_path):
    result = taskarith.extract_low_rank(str(phi), str(phi_tuned), tmp_path / "lora", rank=2)
    frame = result.to_pandas().set_index("tensor")
    assert frame["rank"].to_dict() == dict(result.ranks)
    assert f"factored={len(result.ranks)}" in repr(result)
    json.dumps(result.to_json(), allow_nan=False)


def test_every_result_says_on_one_line_what_it_is_and_gives_plain_values(results):
    for result in results:
        text = repr(result)
        assert text.startswith(f"{type(result).__name__}(")
        assert len(text) < 700, text
        assert "\n" not in text
        json.dumps(result.to_json(), allow_nan=False)
        if isinstance(result, Tabular):
            frame = result.to_pandas()
            assert len(frame) > 0
            assert Page(result._repr_html_()).tags.count("tr") == min(len(frame), 60) + 1


def test_tables_hold_the_numbers_of_their_results(results):
    extracted, inspection, tuned, evaluation, swept, attacked, relation = results
    frame = evaluation.to_pandas().set_index(["model", "text", "metric"])["value"]
    model = evaluation.scores.models[0]
    assert frame[model, "forget", "loss"] == evaluation.scores.by_text[model]["forget"]["loss"].value
    assert inspection.to_pandas()["elements"].sum() == extracted.elements
    assert list(tuned.to_pandas()["step"]) == [step for step, _ in tuned.training_losses]
    sweep = swept.to_pandas()
    assert list(sweep[sweep["metric"] == "alpha"]["value"]) == [row.alpha for row in swept.rows]
    outcome = attacked.outcomes[1]
    found = attacked.to_pandas()
    loss = found[(found["model"] == outcome.title) & (found["metric"] == "loss")]
    assert list(loss["value"]) == [outcome.cells["loss"].value]
    assert "cosine" in set(relation.to_pandas()["metric"])


@pytest.fixture(scope="module")
def results(phi, phi_tuned, tmp_path_factory):
    """One of every kind of result."""
    room = tmp_path_factory.mktemp("results")
    for name, seed in (("forget", 1), ("retain", 2)):
        (room / f"{name}.txt").write_text(tiny.text(40, seed), encoding="utf-8")
    data = {name: str(room / f"{name}.txt") for name in ("forget", "retain")}
    extracted = taskarith.extract(str(phi), str(phi_tuned), room / "v.safetensors")
    vector, small = str(extracted.path), {"block_size": 16, "prompts": 1}
    tuned = taskarith.finetune(str(phi), [data["forget"]], room / "tuned", num_train_epochs=1, block_size=16)
    return (
        extracted,
        taskarith.inspect(vector),
        tuned,
        taskarith.evaluate([str(phi)], data, **small),
        taskarith.sweep(str(phi), data, negate=[vector], alphas=[0, 1], budget=1.0, **small),
        taskarith.attack(str(phi), data["forget"], attacks="quantise", bits=[8], draws=0, **small),
        taskarith.relate([vector, f"{tuned.output_dir}"]),
    )
