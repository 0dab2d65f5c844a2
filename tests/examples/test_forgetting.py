"""The study of forgetting with tiny models: what is shown of a pair is what was measured, and nothing runs twice."""

from __future__ import annotations

import json

import pytest
import tiny

from benchmarks import ways
from examples.forgetting import operators, relations
from examples.forgetting.__main__ import Study
from examples.forgetting.learn import CHOICE, REPORT, ROLES, Lesson, learn
from examples.forgetting.operators import OPERATORS, PLAIN, Outcome, Trial
from examples.forgetting.relations import Found
from taskarith.errors import UsageError


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    texts = {role: folder / f"{role}.txt" for role in ROLES}
    for seed, path in enumerate(texts.values(), 5):
        path.write_text(tiny.text(30, seed), encoding="utf-8")
    return Lesson(texts, 1, block_size=64, epochs=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(tiny.save_model(tmp_path_factory.mktemp("base") / "llama", "llama"))


def test_the_texts_to_report_on_are_others():
    assert all(path.is_file() for texts in (CHOICE, REPORT) for path in texts.values())
    assert REPORT["forgotten"] not in CHOICE.values()
    assert not any(CHOICE[role] == REPORT[role] for role in ROLES)


def test_a_study_ends_with_all_tables_and_goes_on_where_it_stopped(base, lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(operators, "_MOST_STEPS", 2)
    names = [PLAIN, "perta, gradients", "negmerge", "project, MLP only", "trained by npo"]
    few = {name: OPERATORS[name] for name in names}
    for module in ("operators", "__main__"):
        monkeypatch.setattr(f"examples.forgetting.{module}.OPERATORS", few)
    study = Study(base, tmp_path, lesson, lesson)
    text = study.run([1, 2])
    assert text.count("## ") == 3
    for name in names:
        assert text.count(f"| {name} |") == 2
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6, 8}  # four columns of relations; of operators, six
    assert "| verdict | " in text
    monkeypatch.setattr(relations, "relations", None)
    monkeypatch.setattr(operators, "attempt", None)
    assert Study(base, tmp_path, lesson, lesson).run([1, 2]) == text
    with pytest.raises(UsageError, match="another model"):
        Study("elsewhere", tmp_path, lesson, lesson)
    assert not list(tmp_path.rglob("*.partial"))
    found = Found(**json.loads((tmp_path / "results/relations-lora-forgotten-2.json").read_text()))
    assert found.lora
    assert found.alphas == [0.25, 0.5, 0.75, 1.0]
    assert (
        found.column("aligned")["rise at 1: measured"] == f"{found.losses[3]['aligned'] - found.tuned['aligned']:.2f}"
    )


def test_equal_forgetting_is_found(base, lesson, tmp_path, monkeypatch):
    pupil = learn(base, lesson, tmp_path / "pupil")
    stamp = (tmp_path / "pupil/tuned/config.json").stat().st_mtime_ns
    assert learn(base, lesson, tmp_path / "pupil") == pupil
    assert (tmp_path / "pupil/tuned/config.json").stat().st_mtime_ns == stamp
    monkeypatch.setattr(operators, "_NEAR", 0.002)
    outcome = operators.begin(pupil)
    assert outcome.base.losses["forgotten"] > outcome.tuned.losses["forgotten"] + 0.02
    outcome.trials[PLAIN] = operators.attempt(pupil, [], tmp_path, outcome, PLAIN)
    assert outcome.is_equal(PLAIN)
    assert outcome.share(PLAIN) == 1
    assert 0 < outcome.trials[PLAIN].alpha < 3


def test_costs_and_shares():
    tuned, at = Trial(0, {"forgotten": 1, "aligned": 1, "irrelevant": 2}, 0.9), Trial
    outcome = Outcome(7, at(0, {"forgotten": 4, "aligned": 4, "irrelevant": 4}, 0.1), tuned)
    outcome.trials[PLAIN] = at(0.8, {"forgotten": 4.04, "aligned": 1.5, "irrelevant": 2.5}, 0.1)
    outcome.trials["project"] = at(0.9, {"forgotten": 3.9, "aligned": 1.25, "irrelevant": 2}, 0.1)
    assert outcome.share("project") == 0.25
    assert outcome.is_equal(PLAIN)
    assert not outcome.is_equal("project")
    last = operators.table([outcome]).splitlines()[-1]
    assert last == "| project | 0.90 | 3.90 (not equal) | 0.10 | 0.25 | 0.00 | 25% |"


@pytest.mark.parametrize(
    ("slope", "wanted", "alpha"), [(4.0, 3.0, 0.75), (1.0, 3.0, 3.0), (0.05, 3.0, 32.0), (40.0, 3.0, 0.075)]
)
def test_the_study_of_ways_finds_the_alpha_of_equal_forgetting(slope, wanted, alpha):
    found = ways.equal_alpha(lambda at: slope * at, 0.0, wanted)
    assert found == pytest.approx(alpha, rel=0.02)
