"""Reports: from the folders of measurements to one page, in which nothing of strangers is markup."""

from __future__ import annotations

import errno
import json
import shutil

import pytest
from commands import invoke
from reporting import EVIL, Page

from taskarith.errors import DataError, OutputError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.inspection.verify import verify
from taskarith.report import folders
from taskarith.report.report import draw_beside, report


def test_a_page_of_three_measurements(measured, tmp_path):
    folders = [measured / name for name in ("sweep", "eval", "attack")]
    result = report(folders, tmp_path / "report.html", title=EVIL)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert {"script", "i", "b", "link", "iframe"} & {*page.tags} == set()
    assert page.tags.count("img") == 3  # the curves of the sweep, and of each layer by text
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert EVIL in page.text
    assert "forget <i>x</i>" in page.text
    assert str(measured) not in page.text.partition("The command that repeats it")[0]
    assert len(text.encode()) == result.nbytes < 2_000_000
    assert [part for part in ("Sweep over coefficients", "Evaluation", "Attacks") if part not in page.text] == []
    scores = json.loads((measured / "eval/results.json").read_text(encoding="utf-8"))["scores"]
    loss = next(value for model, value in scores.items() if "tuned" in model)["forget <i>x</i>"]["loss"]["value"]
    assert f"{loss:.3f}" in page.text
    assert page.text.count("95%") > 3
    again = report(folders, tmp_path / "report.html", overwrite=True)
    assert again.verdicts == result.verdicts


def test_what_cannot_be_reported_is_refused(measured, tmp_path, phi_tuned):
    with pytest.raises(DataError, match="does not contain results"):
        report(phi_tuned, tmp_path / "r.html")
    with pytest.raises(OutputError, match="cannot write a report"):
        report(measured / "eval", tmp_path / "r.pdf")
    with pytest.raises(UsageError, match="no folder"):
        report([], tmp_path / "r.html")
    (tmp_path / "mine.html").write_text("<p>mine</p>", encoding="utf-8")
    with pytest.raises(OutputError):
        report(measured / "eval", tmp_path / "mine.html", overwrite=True)
    broken = shutil.copytree(measured / "attack", tmp_path / "broken")
    results = json.loads((broken / "results.json").read_text(encoding="utf-8"))
    for key in ("outcomes", "strongest", "models"):
        (broken / "results.json").write_text(json.dumps(results | {key: 7}), encoding="utf-8")
        with pytest.raises(DataError, match="are broken"):
            report(broken, tmp_path / "r.html")
    (broken / "results.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="does not hold a JSON object"):
        report(broken, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_the_command(measured, tmp_path):
    done = invoke("report", measured / "eval", "-o", tmp_path / "r.html")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "r.html")
    assert "the text forget <i>x</i>" in done.stderr


def test_a_page_beside_results_is_part_of_what_is_published(measured, phi, tmp_path):
    notes = _Notes()
    folder, small = tmp_path / "eval", {"block_size": 16, "prompts": 2, "prompt_tokens": 4, "continuation_tokens": 4}
    data = {"forget": str(measured / "forget.txt")}
    evaluate([str(phi)], data, output_dir=folder, draw=draw_beside(folder, notes), **small)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert notes == []
    assert "does not say whether it is forgotten" in page
    assert f"<dd>{folder.name}</dd>" in page
    assert "output" not in {line.strip() for line in Page(page).text.splitlines()}  # not the temporary folder's name
    assert verify(folder).is_sound
    digest = json.loads((folder / "taskarith.json").read_text(encoding="utf-8"))["files"]["report.html"]
    assert digest["bytes"] == len(page.encode())
    evaluate([str(phi)], data, output_dir=folder, overwrite=True, **small)  # all of it is known as ours


def test_a_page_that_cannot_be_drawn_costs_no_measurement(measured, phi, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(folders, "part_of", fail)
    notes, folder = _Notes(), tmp_path / "eval"
    data = {"forget": str(measured / "forget.txt")}
    evaluate([str(phi)], data, output_dir=folder, draw=draw_beside(folder, notes, fail), block_size=16, prompts=0)
    assert notes == [
        "the figures could not be drawn: RuntimeError: no ink",
        "the report could not be drawn: RuntimeError: no ink",
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["records.jsonl", "results.json", "taskarith.json"]
    assert verify(folder).is_sound


@pytest.mark.parametrize(
    ("error", "is_of_the_disk"),
    [
        (RuntimeError("no ink"), False),
        (OSError(errno.ENOENT, "no font"), False),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "quota"), True),
        (OSError(errno.EIO, "broken"), True),
    ],
)
def test_no_beginning_of_a_figure_is_published(phi, measured, tmp_path, error, is_of_the_disk):
    def draw_half(_, folder):
        (folder / "curve.svg").write_text("<svg")
        raise error

    notes, folder = _Notes(), tmp_path / "eval"
    data = {"forget": str(measured / "forget.txt")}
    call = {"output_dir": folder, "draw": draw_beside(folder, notes, draw_half), "block_size": 16, "prompts": 0}
    if is_of_the_disk:
        with pytest.raises(OutputError, match=r"no space left for|cannot complete"):
            evaluate([str(phi)], data, **call)
        assert not folder.exists()
    else:
        evaluate([str(phi)], data, **call)
        assert "the figures could not be drawn" in notes[0]
        assert not (folder / "curve.svg").exists()
        assert (folder / "report.html").exists()


class _Notes(list):
    def progress(self, *_):
        pass

    def note(self, message):
        self.append(message)
