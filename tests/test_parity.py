"""Numbers that other tools gave by their own code on a model made by counting (``benchmarks.parity --golden``)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.parity.__main__ import Row, small_models
from benchmarks.parity.data import HOLDOUT, KNOWN
from taskarith.evaluation.evaluate import evaluate

GOLDEN = json.loads((Path(__file__).parent / "parity.json").read_text(encoding="utf-8"))
KINDS = ("forget", "retain", "real_authors", "world_facts")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path, Path]:
    room = tmp_path_factory.mktemp("parity")
    return (*small_models(room), room)


def test_tofu_as_open_unlearning_and_its_authors_have_it(models):
    base, tuned, room = models
    scores = evaluate([str(tuned)], {}, reference=str(base), benchmark=f"tofu={room / 'tofu'}", device="cpu").scores
    theirs, seen = GOLDEN["open-unlearning"], 0
    for name, value in theirs.items():
        text, _, metric = name.rpartition(" ")
        ours = scores.by_text[str(tuned)][text][metric] if text else scores.overall[str(tuned)][metric]
        row = Row("open-unlearning", name, value, ours.value, 1e-5 * max(1.0, abs(value)))
        assert row.reason != "?", f"{name}: {value}, and here {ours.value}"
        seen += row.is_equal
    assert seen >= len(theirs) - 7, "few are equal: no reason explains that"
    assert GOLDEN["TOFU"]["model_utility"] == pytest.approx(scores.overall[str(tuned)]["model_utility"].value, abs=1e-6)


def test_verbatim_memory_knowledge_and_aucs_as_muse_has_them(models):
    base, tuned, room = models
    how = {"reference": str(base), "benchmark": f"muse-books={room / 'muse'}", "device": "cpu"}
    ours = evaluate([str(tuned)], {}, **how).scores.overall[str(tuned)]
    for name, value in GOLDEN["MUSE"].items():
        assert ours[name].value == pytest.approx(value, abs=1e-6), name


def test_membership_as_the_authors_of_min_k_plus_plus_have_it(models, tmp_path):
    _, tuned, _ = models
    data = {"forget": KNOWN, "holdout": HOLDOUT}
    for name, texts in data.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    specs = {name: str(tmp_path / f"{name}.jsonl") for name in data}
    ours = evaluate([str(tuned)], specs, prompts=0, device="cpu").scores.overall[str(tuned)]
    for name, percent in GOLDEN["Min-K%++"].items():
        assert 100 * ours[name].value == pytest.approx(percent, abs=0.05), name  # printed with one digit
