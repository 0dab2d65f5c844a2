"""The folder that `relate` writes: complete, sealed, and without a path of this machine."""

from __future__ import annotations

import json

import pytest

from taskarith.checkpoints.provenance import PROVENANCE_NAME
from taskarith.errors import OutputError
from taskarith.inspection.verify import verify
from taskarith.relations import relate as module
from taskarith.relations.relate import relate
from taskarith.report.heatmap import draw_relations
from taskarith.report.report import draw_beside, report


def test_the_folder_holds_results_record_drawings_and_a_report(pair, tmp_path):
    folder = tmp_path / "related"
    found = relate(pair, output_dir=folder, draw=draw_beside(folder, _Notes(), draw_relations))
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(found.to_json()))
    names = {path.name for path in folder.iterdir()}
    assert names == {"results.json", PROVENANCE_NAME, "cosines.svg", "cosines.png", "report.html"}
    assert verify(folder).is_sound
    record = json.loads((folder / PROVENANCE_NAME).read_text())
    assert record["kind"] == "relation"
    assert [one["name"] for one in record["vectors"]] == list(found.names)
    for name in (PROVENANCE_NAME, "report.html"):
        assert str(tmp_path) not in (folder / name).read_text()
    assert report(folder, tmp_path / "r.html").verdicts[0].startswith("Nothing is said")


def test_an_output_that_cannot_be_written_is_refused_before_any_work(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "open_related", lambda *_: pytest.fail("it began to work"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").touch()
    with pytest.raises(OutputError):
        relate(pair, output_dir=tmp_path / "mine", overwrite=True)
    with pytest.raises(OutputError):
        relate(pair, output_dir=pair[0])


@pytest.fixture
def pair(room):
    return [str(room / "a.safetensors"), str(room / "b.safetensors")]


class _Notes:
    def progress(self, *_):
        pass

    def note(self, message):
        raise AssertionError(message)
