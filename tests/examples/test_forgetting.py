"""The study of forgetting with tiny models: what is shown of a pair is what was measured, and nothing runs twice."""

from __future__ import annotations

import gc
import json

import pytest
import tiny

from benchmarks import ways
from examples.forgetting import objectives, operators, relations
from examples.forgetting.__main__ import Study
from examples.forgetting.learn import CHOICE, REPORT, ROLES, Lesson, learn
from examples.forgetting.objectives import BASE, OBJECTIVES, Comparison, Defence, Setting, settings_of
from examples.forgetting.operators import OPERATORS, PLAIN, Outcome, Trial
from examples.forgetting.relations import Found
from taskarith.errors import UsageError
from taskarith.training.settings import TrainingSettings


@pytest.fixture(scope="module", autouse=True)
def _quick_collections():
    """Spare what is imported already: a collection after each of many measurements takes half of the time otherwise."""
    gc.freeze()
    yield
    gc.unfreeze()


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
    parts = ["relations", "operators"]
    names = [PLAIN, "perta, gradients", "negmerge", "project, MLP only"]
    few = {name: OPERATORS[name] for name in names}
    for module in ("operators", "__main__"):
        monkeypatch.setattr(f"examples.forgetting.{module}.OPERATORS", few)
    study = Study(base, tmp_path, lesson, lesson)
    text = study.run([1, 2], parts)
    assert text.count("## ") == 3
    for name in names:
        assert text.count(f"| {name} |") == 2
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {6, 8}  # four columns of relations; of operators, six
    assert "| verdict | " in text
    monkeypatch.setattr(relations, "relations", None)
    monkeypatch.setattr(operators, "attempt", None)
    assert Study(base, tmp_path, lesson, lesson).run([1, 2], parts) == text
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
    monkeypatch.setattr(operators, "NEAR", 0.002)
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


def test_training_that_forgets_stands_beside_negation(base, lesson, tmp_path, monkeypatch):
    monkeypatch.setattr(operators, "_MOST_STEPS", 1)
    monkeypatch.setattr(objectives, "RATES", (1e-2,))
    monkeypatch.setattr(objectives, "OBJECTIVES", ["ascent", "rmu"])
    monkeypatch.setattr(objectives, "WEIGHTS", {"rmu": (2.0,)})
    ways = [PLAIN, "project", "ascent", "rmu"]
    monkeypatch.setattr(objectives, "WAYS", ways)
    text = Study(base, tmp_path, lesson, lesson).run([1], ["objectives"])
    for name in (BASE, *ways, "**ascent at 0.01**", "**rmu at 0.01, retain weight 2**"):
        assert text.count(f"\n| {name} |") == 1
    values = json.loads((tmp_path / "results/objectives-full-forgotten-short-1.json").read_text())
    seconds = json.loads((tmp_path / "full-forgotten-short-1/seconds.json").read_text())
    assert values["defences"][PLAIN]["seconds"] == seconds["forgotten"] > 0
    assert values["defences"]["project"]["seconds"] == sum(seconds.values()) > seconds["forgotten"]
    assert values["defences"]["rmu"]["seconds"] > 0
    shares = [one[share] for one in values["defences"].values() for share in ("relearned", "quantised")]
    assert len(set(shares)) > len(ways)
    assert values["outcome"]["trials"]["ascent"]["losses"]["unseen"] > 0
    assert not list(tmp_path.rglob("trained")) + list(tmp_path.rglob("edited"))
    for name in ("try_setting", "begin", "attempt"):
        monkeypatch.setattr(objectives, name, None)
    assert Study(base, tmp_path, lesson, lesson).run([1], ["objectives"]) == text


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_setting_can_be_trained_with(objective):
    settings = settings_of(objective)
    assert len({str(setting) for setting in settings}) == len(settings) >= 2
    assert all(TrainingSettings(**setting.options).rate == setting.rate for setting in settings)


def test_the_setting_that_costs_least_is_chosen_among_those_that_forget(monkeypatch):
    monkeypatch.setattr(objectives, "OBJECTIVES", ["npo"])
    monkeypatch.setattr(objectives, "RATES", (1e-5, 5e-5, 3e-4))
    kept = {"forgotten": 4.0, "aligned": 1.0, "irrelevant": 2.0}
    outcome = Outcome(7, Trial(0, kept, 0.1), Trial(0, kept | {"forgotten": 1.0}, 0.9))
    costs = {"1e-05": (3.0, 0.0), "5e-05": (4.0, 0.5), "0.0003": (4.02, 0.75)}
    for rate, (loss, cost) in costs.items():
        losses = kept | {"forgotten": loss, "irrelevant": 2 + cost}
        outcome.trials[f"npo at {rate}"] = Trial(2, losses, 0.1)
    assert objectives.choose(outcome, "npo") == Setting("npo", 5e-5)
    *_, first, second, _ = objectives.settings_table(outcome).splitlines()
    assert first == "| npo at 1e-05 | 2.00 | 3.00 | 0.00 |"
    assert second == "| **npo at 5e-05** | 2.00 | 4.00 | 0.50 |"


def test_a_way_is_shown_with_its_price_and_what_comes_back(monkeypatch):
    monkeypatch.setattr(objectives, "WAYS", ["npo"])
    losses = {"forgotten": 4.0, "aligned": 1.0, "irrelevant": 2.0, "unseen": 5.0}
    seeds = []
    for seed in (1, 2):
        outcome = Outcome(seed, Trial(0, losses, 0.1), Trial(0, losses | {"forgotten": 1.0}, 0.9))
        more = {"aligned": 1.5, "irrelevant": 1.75, "unseen": 5 + seed}
        outcome.trials["npo"] = Trial(seed, losses | more, 0.2)
        seeds.append(Comparison(outcome, {"npo": Defence(10 * seed, 0.25, -0.1), BASE: Defence(0, 0.125 * seed, 0.0)}))
    *_, of_base, last = objectives.table(seeds).splitlines()
    assert last == "| npo | 15 | 1.50 | 4.00 | 0.20 | 0.50 | -0.25 | 1.50 | 25% / 25% | -10% / -10% |"
    assert of_base == f"| {BASE} |  |  |  |  |  |  |  | 12% / 25% | 0% / 0% |"


@pytest.mark.parametrize(
    ("slope", "wanted", "alpha"), [(4.0, 3.0, 0.75), (1.0, 3.0, 3.0), (0.05, 3.0, 32.0), (40.0, 3.0, 0.075)]
)
def test_the_study_of_ways_finds_the_alpha_of_equal_forgetting(slope, wanted, alpha):
    found = ways.equal_alpha(lambda at: slope * at, 0.0, wanted)
    assert found == pytest.approx(alpha, rel=0.02)
