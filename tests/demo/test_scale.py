"""The size of the demo, and its texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskarith.demo.scale import FULL, QUICK, TEXTS, write_texts
from taskarith.errors import OutputError


def test_the_texts_are_short_and_plain(tmp_path):
    paths = write_texts(tmp_path / "texts", None, overwrite=False)
    assert list(paths) == list(TEXTS)
    texts = [Path(path).read_text(encoding="utf-8") for path in paths.values()]
    assert all(4000 <= len(text.encode()) <= 6144 for text in texts)
    assert len(set(texts)) == 3
    assert FULL.measurement.prompts >= 16


def test_texts_of_another_size_are_replaced_only_if_allowed(tmp_path):
    paths = write_texts(tmp_path, None, overwrite=False)
    assert write_texts(tmp_path, None, overwrite=False) == paths
    whole = Path(paths["aligned"]).read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="of another size"):
        write_texts(tmp_path, QUICK.characters, overwrite=False)
    assert Path(paths["aligned"]).read_text(encoding="utf-8") == whole
    write_texts(tmp_path, QUICK.characters, overwrite=True)
    assert Path(paths["aligned"]).read_text(encoding="utf-8") == whole[: QUICK.characters]


def test_adapters_learn_at_fifteen_times_the_rate():
    full, lora = FULL.learning(False), FULL.learning(True)
    assert (full.lora, lora.lora) == (False, True)
    assert lora.learning_rate == 15 * full.learning_rate
    assert full.options()["num_train_epochs"] == FULL.epochs
