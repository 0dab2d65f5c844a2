"""The demo on a tiny model: its path, its numbers, its words, and the commands that it says do the same."""

from __future__ import annotations

import json

import pytest
from tiny_demo import TINY

from taskarith.demo.run import TEXTS, run_demo
from taskarith.errors import OutputError


def test_every_number_and_every_promised_file_is_there(shown):
    result, lora = shown
    assert list(result.curve) == sorted(result.curve)
    assert {0.0, 0.5, 1.0} <= result.curve.keys()
    assert list(result.control) == ["forgotten", "aligned", "irrelevant", "random"]
    assert result.control["forgotten"] == result.curve[1.0]
    for scores in (result.base, *result.curve.values()):
        assert list(scores) == list(TEXTS)
        assert all(text["rouge_l_f1"].n == 2 and text["loss"].n > 1 for text in scores.values())
    saved = json.loads((result.output_dir / "results.json").read_text())
    assert saved == json.loads(json.dumps(result.to_json()))
    assert {"base", "alpha 0"} < set(result.to_pandas()["model"])
    assert len(repr(result)) < 400
    names = {path.name for path in result.output_dir.iterdir()}
    expected = {"texts", "tuned", "alpha.png", "alpha.svg", "results.json", "taskarith.json", "forgotten.safetensors"}
    expected |= (
        {f"learned-{text}" for text in TEXTS} | {"tuned-adapter"} if lora else {f"{t}.safetensors" for t in TEXTS}
    )
    assert names - {"edited"} == expected
    assert ("edited" in names) == (result.recommended is not None)


def test_only_the_folder_of_a_demo_is_replaced(tmp_path, phi):
    thesis = tmp_path / "d" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("precious")
    for overwrite, words in ((False, "already exists"), (True, "is kept: thesis.txt")):
        with pytest.raises(OutputError, match=words):
            run_demo(str(phi), thesis.parent, scale=TINY, overwrite=overwrite)
    assert thesis.read_text() == "precious"
