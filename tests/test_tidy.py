"""Results as tables, and how they show themselves."""

from __future__ import annotations

import math
import subprocess
import sys

from reporting import EVIL, Page

from taskarith.tidy import COLUMNS, Brief, TidyResult, TidyRow


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
