"""An earlier demo is put aside while a new one is made: it comes back, or goes."""

from __future__ import annotations

import pytest

from taskarith.checkpoints.provenance import write_provenance
from taskarith.demo.replacing import bring_back, replacing
from taskarith.errors import OutputError


def test_an_earlier_demo_comes_back_or_goes(tmp_path):
    folder = tmp_path / "demo"

    def fill(text):
        folder.mkdir(exist_ok=True)
        write_provenance(folder, {"kind": "demo", "text": text})
        (folder / "results.json").write_text(text)

    def fail():
        with replacing(folder):
            folder.mkdir(exist_ok=True)
            write_provenance(folder, {"kind": "demo"})
            raise KeyboardInterrupt

    fill("one")
    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "results.json").read_text() == "one"
    with replacing(folder):
        fill("two")
    assert (folder / "results.json").read_text() == "two"
    assert list(tmp_path.iterdir()) == [folder]
    folder.rename(tmp_path / ".demo.old")  # as if the next one had been killed
    (tmp_path / ".demo.old" / "moved").touch()
    folder.mkdir()
    write_provenance(folder, {"kind": "demo"})
    bring_back(folder)
    assert (folder / "results.json").read_text() == "two"
    assert list(tmp_path.iterdir()) == [folder]
    (tmp_path / ".demo.old").mkdir()
    (tmp_path / ".demo.old" / "thesis.txt").touch()
    with pytest.raises(OutputError, match="is not an earlier demo"):
        bring_back(folder)
