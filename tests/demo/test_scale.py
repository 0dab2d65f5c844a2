"""How finely the demo works, and its texts."""

from __future__ import annotations

import pytest

from taskarith.demo.run import FULL, TEXTS


@pytest.mark.parametrize("name", TEXTS.values())
def test_the_texts_are_short_and_plain(name):
    from taskarith.demo import run

    text = (run.Path(run.__file__).parent / "texts" / name).read_text(encoding="utf-8")
    assert 4000 <= len(text.encode()) <= 6144
    assert len(set(TEXTS.values())) == 3
    assert FULL.prompts >= 16
