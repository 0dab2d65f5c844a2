"""Which coefficients: the rules on numbers, the halves, the command against `eval` and `apply`, the searches."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.data.load import load_data
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import OutputError, UsageError
from taskarith.evaluation import models
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.evaluation.models import open_model
from taskarith.evaluation.questions import ask
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import continuation_record, loss_record
from taskarith.evaluation.run import Evaluation
from taskarith.evaluation.score import make_scores
from taskarith.progress import SILENT
from taskarith.spec import OperandRef
from taskarith.sweeps.gradient_search import Slope, project
from taskarith.sweeps.optuna_search import load_optuna, open_study
from taskarith.sweeps.remaining import measure_remaining
from taskarith.sweeps.result import conclude
from taskarith.sweeps.rule import Point, Rule, TextScore, find_cliff, pareto_front
from taskarith.sweeps.search_space import Space, find_parts
from taskarith.sweeps.split import deal, mean_loss, point_of
from taskarith.sweeps.sweep import sweep
from taskarith.sweeps.trial import TrialModel

SMALL = {"block_size": 32, "prompts": 8, "prompt_tokens": 6, "continuation_tokens": 8}
LOSSES = SMALL | {"prompts": 0}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]


# rules, on numbers


def point(alpha, forget, keep, rouge=None):
    return Point(alpha, {"forget": TextScore(forget, rouge)}, {"a": TextScore(keep - 0.1), "b": TextScore(keep + 0.1)})


CURVE = [point(0, 0.2, 0.3), point(0.5, 1.5, 0.6), point(1, 4.1, 0.8), point(1.5, 6.0, 2.0), point(-0.5, 1.6, 0.5)]


@pytest.mark.parametrize(
    ("aim", "chosen"),
    [
        (Rule({"forget": TextScore(4.0)}), 2),
        (Rule({"forget": TextScore(1.5)}), 4),  # of two equally small alphas the one that costs less
        (Rule({"forget": TextScore(0.2)}), 0),
        (Rule({"forget": TextScore(6.1)}), None),
        (Rule(budget=0.51), 2),
        (Rule(budget=0.25), 4),
        (Rule(budget=-0.1), None),
        (Rule({"forget": TextScore(6.1)}, budget=2.0), 3),  # beside a budget the level only is there to compare with
        (Rule(), None),
    ],
)
def test_a_rule_chooses(aim, chosen):
    assert aim.choose(CURVE, CURVE[0]) == chosen


def test_every_text_and_its_rouge_must_be_at_the_level():
    aim = Rule({"forget": TextScore(2.0, 0.10), "forget_too": TextScore(1.0, None)})

    def of(first, second):
        return Point(1, {"forget": first, "forget_too": second}, {"a": TextScore(1.0)})

    unedited = of(TextScore(0.1, 0.9), TextScore(0.1, 0.9))
    assert aim.is_met(of(TextScore(2.0, 0.13), TextScore(1.0, 0.9)), unedited)
    assert not aim.is_met(of(TextScore(2.0, 0.131), TextScore(1.0, 0.9)), unedited)
    assert not aim.is_met(of(TextScore(2.0, 0.10), TextScore(0.9, 0.0)), unedited)


def test_the_objective_of_a_search_is_the_rule_with_a_penalty():
    unedited = point(0, 0.2, 0.3)
    assert Rule({"forget": TextScore(4.0)}).objective(point(1, 4.5, 0.8), unedited) == pytest.approx(0.5)
    assert Rule({"forget": TextScore(4.0)}).objective(point(1, 3.9, 0.8), unedited) == pytest.approx(0.5 + 10 * 0.1)
    assert Rule(budget=0.5).objective(point(1, 3.9, 0.8), unedited) == pytest.approx(-3.9)
    assert Rule(budget=0.4).objective(point(1, 3.9, 0.8), unedited) == pytest.approx(-3.9 + 10 * 0.1)
    assert Rule(budget=1.0).objective(replace(point(1, 3.9, 0.8), kl=0.2), unedited, kl=2) == pytest.approx(-3.5)


def steps(losses, width=None):
    values = [after - before for before, after in itertools.pairwise(losses)]
    return [Estimate(v, None if width is None else v - width, None if width is None else v + width, 4) for v in values]


TENTHS = [round(0.1 * n, 1) for n in range(11)]


@pytest.mark.parametrize(
    ("alphas", "losses", "width", "cliff"),
    [
        (TENTHS, [1 + a for a in TENTHS], None, None),
        (TENTHS, [1 + 3 * a**2 for a in TENTHS], None, None),  # Taylor's second term is not a cliff
        (TENTHS, [1 + 0.1 * a + (a > 0.55) for a in TENTHS], None, 6),
        (TENTHS, [1 + 0.1 * a + (a > 0.55) for a in TENTHS], 0.99, None),  # or so the samples say
        (TENTHS, [1 + 0.01 * a + 0.05 * (a > 0.55) for a in TENTHS], None, None),  # less than 0.1 nats
        ([1 - 1, 1, 2, 4, 8, 16], [1, 1.1, 1.2, 1.4, 1.8, 2.6], None, None),  # MUSE's grid: speeds, not steps
        ([0, 1, 2, 4, 8, 16], [1, 1.1, 1.2, 1.4, 3.8, 9], None, 4),
        ([0, 1, 2, 3], [1.0, 0.9, 0.8, 1.2], None, 3),
        ([0, 1], [1, 9], None, None),  # there is no speed to compare with
        ([0], [1], None, None),
    ],
)
def test_a_cliff_is_a_loss_that_rises_faster_than_it_did(alphas, losses, width, cliff):
    assert find_cliff(alphas, losses, steps(losses, width)) == cliff


def test_the_front_is_what_no_other_edit_beats():
    assert pareto_front([(1, 1), (2, 2), (3, 1.5), (3, 1.6), (0.5, 1), (4, 9)]) == [0, 2, 5]
    assert pareto_front([(1, 1), (1, 1)]) == [0]
    assert pareto_front([]) == []


# halves


def test_halves_are_disjoint_and_complete_and_keep_a_row_together():
    samples = [("loss", "forget", f"d#{n}") for n in range(5)] + [
        ("continuation", "forget", f"d@{n}") for n in range(4)
    ]
    samples += [("loss", "rows", str(n)) for n in range(10)] + [
        ("continuation", "rows", str(n)) for n in range(0, 10, 2)
    ]
    found = deal(samples)
    assert found.validation | found.heldout == set(samples)
    assert not found.validation & found.heldout
    assert found.single == ()
    assert {one[2] for one in found.validation if one[:2] == ("loss", "forget")} == {"d#0", "d#2", "d#4"}
    assert {one[2] for one in found.heldout if one[:2] == ("continuation", "forget")} == {"d@1", "d@3"}
    for half in (found.validation, found.heldout):
        assert sum(one[:2] == ("loss", "rows") for one in half) == 5
        rows = {one[2] for one in half if one[:2] == ("loss", "rows")}
        assert {one[2] for one in half if one[:2] == ("continuation", "rows")} <= rows


def test_a_single_sample_is_in_both_halves_and_that_is_said():
    found = deal([("loss", "forget", "d#1"), ("loss", "keep", "e#1"), ("loss", "keep", "e#2")])
    assert found.single == ("forget",)
    assert ("loss", "forget", "d#1") in found.validation & found.heldout
    assert len(found.validation & found.heldout) == 1


def test_means_of_records():
    def row(name, forget, keep):
        found = [loss_record(name, "forget", f"f{n}", nll, 10, 1) for n, nll in enumerate(forget)]
        found += [loss_record(name, "keep", f"k{n}", nll, 5, 1) for n, nll in enumerate(keep)]
        found += [loss_record(name, "other", "o", 8.0, 4, 1)]
        return [*found, continuation_record(name, "forget", "p", "x", "a b", "a b")]

    before, after = row("before", [10, 20], [5, 10, 15]), row("after", [30, 40], [10, 15, 20])
    found = point_of(0.5, after)
    assert found.forget == {"forget": TextScore(3.5, 1.0)}
    assert found.keep == {"keep": TextScore(3.0), "other": TextScore(2.0)}
    assert (found.forget_loss, found.keep_loss) == (3.5, 2.5)
    assert mean_loss(after, forgotten=False).value == 2.5
    rise = mean_loss(after, before, forgotten=False)
    assert (rise.value, rise.low, rise.high) == (0.5, None, None)  # other has one sample
    rise = mean_loss(after, before, forgotten=True)  # every sample rose by 20 nats on 10 tokens
    assert (rise.value, rise.low, rise.high) == (2.0, None, None)


@pytest.mark.parametrize(
    ("rises", "chosen"), [([20, 22, 19, 23], 1), ([0.3, 0.2, -0.2, -0.1], None), ([0, 0, 0, 0], None)]
)
def test_a_budget_recommends_no_edit_that_forgets_nothing(rises, chosen):
    """Of a model that never knew the text some coefficient always raises the loss most, by nothing that can be told."""

    def row(name, more):
        found = [loss_record(name, "forget", f"f{n}", 40.0 + rise, 10, 1) for n, rise in enumerate(more)]
        return found + [loss_record(name, "keep", f"k{n}", 20.0, 10, 1) for n in range(4)]

    records = row("m alpha=0", [0] * 8) + row("m alpha=1", rises * 2)
    edits = {f"m alpha={alpha}": Edit(alpha=alpha) for alpha in (0, 1)}
    scores = make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})
    found = conclude(Evaluation(scores, records), edits, Rule(budget=1.0), None)
    assert found.chosen == chosen
    assert (found.recipe is None) == (chosen is None)
    if chosen is None:
        assert found.reason.startswith("nothing is recommended: within the budget of 1 nats no edit forgets beyond")


def rows_of(name, losses, rouges, text="forget"):
    """Return records of a row: nats a token of blocks, and ROUGE-L of prompts; and of a text that is kept."""
    found = [loss_record(name, text, f"b{n}", 10 * one, 10, 1) for n, one in enumerate(losses)]
    prompts = [{"kind": "continuation", "model": name, "text": text, "sample": f"p{n}"} for n in range(len(rouges))]
    found += [one | {"rouge_l_f1": rouge} for one, rouge in zip(prompts, rouges, strict=True)]
    return found + [loss_record(name, "keep", f"k{n}", 20.0, 10, 1) for n in range(4)]


KNEW, NEVER = ([0.2, 0.3, 0.4, 0.3], [0.6, 0.5, 0.7, 0.6]), ([3.9, 4.1, 4.0, 3.8], [0.1, 0.2, 0.1, 0.15])


@pytest.mark.parametrize(
    ("edited", "loss", "rouge", "is_forgotten"),
    [
        (KNEW, 1.0, 1.0, False),
        (NEVER, 0.0, 0.0, True),
        (([4.0, 4.1, 4.2, 3.7], [0.2, 0.1, 0.1, 0.2]), -0.01, 0.03, True),
        (([0.9, 1.0, 1.1, 0.985], [0.1, 0.2, 0.1, 0.15]), 0.81, 0.0, False),  # one measure is not enough
        (([3.9, 4.1, 4.0, 3.8], [0.5, 0.2, 0.1, 0.15]), 0.0, 0.22, False),  # a prompt that still tells all
        (([3.9, 4.1, 4.0, 3.8], []), 0.0, None, True),
    ],
)
def test_what_is_left_of_a_text_has_an_interval_that_decides(edited, loss, rouge, is_forgotten):
    unedited, never = KNEW, NEVER
    if not edited[1]:
        unedited, never = (unedited[0], []), (never[0], [])
    rows = [rows_of(name, *values) for name, values in (("e", edited), ("u", unedited), ("n", never))]
    left = measure_remaining(*rows)["forget"]
    assert left.loss.value == pytest.approx(loss, abs=0.01)
    assert (left.rouge and left.rouge.value) == (rouge if rouge is None else pytest.approx(rouge, abs=0.01))
    assert left.is_forgotten is is_forgotten
    of_target = measure_remaining(*rows[:2], {"forget": TextScore(3.95)})["forget"]
    assert of_target.loss.value == pytest.approx(loss, abs=0.02)
    assert of_target.rouge is None


@pytest.mark.parametrize("size", [1, 2])
def test_few_samples_show_nothing(size):
    rows = [
        rows_of(name, values[0][:size], values[1][:size])
        for name, values in zip("eun", (NEVER, KNEW, NEVER), strict=True)
    ]
    rows[0][0]["nll"] += 12.0  # blocks that do not agree
    left = measure_remaining(*rows)["forget"]
    assert not left.is_forgotten
    assert (left.loss is None) is (size == 1)


@pytest.mark.parametrize(
    ("losses", "chosen", "words"),
    [
        ([4.0, 4.1, 4.2, 3.9], 1, "the least alpha that reaches the level of n (left, 95% intervals: of forget -"),
        ([3.0, 3.1, 3.2, 2.9], None, "no edit reaches the level of n; nearest is alpha 1 (left, 95% intervals: of fo"),
        ([3.0, 3.1, 3.2, 2.9], None, "1 is the last alpha that was tried: go further, as in --alpha 1:4:0.5"),
        ([14.0, 0.5, 14.0, 4.9], None, "by its means alpha 1 reaches the level of n, but the samples do not show that"),
    ],
)
def test_a_level_that_is_not_shown_to_be_reached_is_not_recommended(losses, chosen, words):
    names = ("m alpha=0", "m alpha=1", "n")
    records = [
        one for name, of in zip(names, (KNEW[0], losses, NEVER[0]), strict=True) for one in rows_of(name, of, [])
    ]
    edits = {f"m alpha={alpha}": Edit(alpha=alpha) for alpha in (0, 1)}
    scores = make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})
    found = conclude(Evaluation(scores, records), edits, Rule(), "n")
    assert found.chosen == chosen
    assert words in found.reason
    assert (found.recipe is None) == (chosen is None)


@pytest.mark.parametrize(("rise", "words"), [(0.0, "--alpha 1:4:0.5"), (0.4, "rises by at most 0.5 nats")])
def test_a_budget_that_allows_more_than_was_tried_says_so(rise, words):
    def row(name, forget, keep):
        found = [loss_record(name, "forget", f"f{n}", 10 * forget + n, 10, 1) for n in range(8)]
        return found + [loss_record(name, "keep", f"k{n}", 10 * keep, 10, 1) for n in range(4)]

    alphas = {0: (1, 2), 0.5: (2, 2 + rise / 2), 1: (3, 2 + 3 * rise)}
    records = [one for alpha, losses in alphas.items() for one in row(f"m alpha={alpha}", *losses)]
    scores = make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})
    edits = {f"m alpha={alpha}": Edit(alpha=alpha) for alpha in alphas}
    found = conclude(Evaluation(scores, records), edits, Rule(budget=0.5), None)
    assert found.reason.endswith(words)


# coefficients


def test_coefficients_of_vectors_and_of_parts():
    refs = (OperandRef("f", -2.0), OperandRef("r", 1.0), OperandRef("kept", 0.0, role="protect"))
    whole = Space(Edit(refs), ("*",), 0.0, 2.0)
    assert whole.names == ("1 f", "2 r")
    assert [one.coefficient for one in whole.edit_at([0.5, 0.1]).operands] == [-1.0, 0.1, 0.0]
    assert whole.start(0.7) == [0.7, 0.0]
    assert Space(Edit((OperandRef("r", 1.0),)), ("*",), 0.0, 2.0).start(0.7) == [0.7]
    parts = Space(Edit(refs), ("*", "m.0-1"), 0.0, 2.0)
    assert parts.names == ("1 f *", "1 f m.0-1", "2 r *", "2 r m.0-1")
    found = parts.edit_at([1.0, 0.5, 0.0, 0.25]).operands
    assert [(one.coefficient, one.scale) for one in found] == [
        (-2.0, {"*": (1.0,), "m.0-1": (0.5,)}),
        (1.0, {"*": (0.0,), "m.0-1": (0.25,)}),
        (0.0, {}),
    ]


def test_parts_of_a_model():
    kinds = ("attn.w", "mlp.w", "norm.w")
    shapes = {f"model.layers.{n}.{kind}": 2 - (kind == "norm.w") for n in range(7) for kind in kinds}
    shapes |= {"embed.w": 2, "lm_head.w": 2}
    assert find_parts(shapes, []) == ("*",)
    assert find_parts(shapes, ["layer"]) == ("*", "model.layers.0-1", "model.layers.2-3", "model.layers.4-6")
    assert find_parts(shapes, ["module"]) == ("*", "model.layers.*.attn", "model.layers.*.mlp")
    assert find_parts(shapes, ["module", "layer"])[:3] == ("*", "model.layers.0-1.attn", "model.layers.0-1.mlp")
    assert len(find_parts(shapes, ["module", "layer"])) == 7
    with pytest.raises(UsageError, match="no layers"):
        find_parts({"embed.w": 2}, ["layer"])
    with pytest.raises(UsageError, match="head"):
        find_parts(shapes, ["head"])


# a model that learned two texts, and the vector of one of them


def learn(base, folder, paths, steps):
    """Train a tiny model on texts, and save it."""
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ids = [tokenizer(path.read_text()).input_ids for path in paths]
    blocks = [torch.tensor([one[at : at + 32]]) for one in ids for at in range(0, len(one) - 2, 32)]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        block = blocks[step % len(blocks)]
        model(block, labels=block).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    paths = [folder / f"{name}.txt" for name in ("forget", "retain", "before")]
    for seed, (path, sentences) in enumerate(zip(paths, (8, 8, 40), strict=True)):
        path.write_text(tiny.text(sentences, seed), encoding="utf-8")
    base = learn(tiny.save_model(folder / "random"), folder / "base", paths[2:], 80)
    tuned = learn(base, folder / "tuned", paths[:2], 120)
    vectors = [learn(base, folder / f"learned-{n}", [path], 60) for n, path in enumerate(paths[:2])]
    return {
        "base": str(base),
        "tuned": str(tuned),
        "forget": f"{vectors[0]}@@{base}",
        "retain": f"{vectors[1]}@@{base}",
        "data": {"forget": str(paths[0]), "retain": str(paths[1])},
    }


def command(lab, *arguments):
    call = ["sweep", lab["tuned"], *map(str, arguments)]
    call += [word for name, path in lab["data"].items() for word in ("--data", f"{name}={path}")]
    return CliRunner().invoke(app, call)


def test_the_command_measures_as_eval_does_and_apply_writes_what_it_chose(lab, tmp_path):
    done = command(
        lab,
        "--negate",
        lab["forget"],
        "--alpha",
        "0.5,3,1.5",
        "--reference",
        lab["base"],
        *OPTIONS,
        "-o",
        tmp_path / "s",
    )
    assert done.exit_code == 0, done.output
    assert "chosen: the least alpha that reaches the level of" in done.stderr
    assert sorted(one.name for one in (tmp_path / "s").iterdir()) == [
        "curve.png",
        "curve.svg",
        "recipe.yaml",
        "records.jsonl",
        "results.json",
        "taskarith.json",
    ]
    found = json.loads((tmp_path / "s" / "results.json").read_text())
    options = SMALL | {"retain": lab["base"]}
    same = evaluate([lab["tuned"]], lab["data"], negate=[lab["forget"]], alphas=[0, 0.5, 1.5, 3], **options)
    assert found["scores"] == same.scores.to_json()["scores"]
    records = [json.loads(line) for line in (tmp_path / "s" / "records.jsonl").read_text().splitlines()]
    assert records == same.records
    assert [row["alpha"] for row in found["rows"]] == [0, 0.5, 1.5, 3]
    alpha = found["recommended"]["alpha"]
    levels = [scores["forget"]["loss"]["value"] for scores in found["scores"].values()]
    assert alpha > 0
    assert levels[-1] > levels[0]  # the base never knew the text
    recipe = yaml.safe_load((tmp_path / "s" / "recipe.yaml").read_text())
    assert recipe["alpha"] == alpha
    assert recipe == found["recipe"]
    applied = CliRunner().invoke(
        app, ["apply", "--config", str(tmp_path / "s" / "recipe.yaml"), "-o", str(tmp_path / "out"), "--quiet"]
    )
    assert applied.exit_code == 0, applied.output
    model = AutoModelForCausalLM.from_pretrained(lab["tuned"])
    memory = InMemoryEdit(model, lab["tuned"], negate=[lab["forget"]])
    memory.set(alpha)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(values, model.state_dict()[name]) for name, values in written.items())


def test_the_choice_is_made_on_one_half_and_told_of_the_other(lab):
    found = sweep(
        lab["tuned"], lab["data"], negate=[lab["forget"]], alphas=[0.5, 1, 1.5], reference=lab["base"], **LOSSES
    )
    row = found.rows[found.chosen]
    for half, loss in (
        (found.halves.validation, row.choosing.forget["forget"].loss),
        (found.halves.heldout, found.heldout.by_text[row.name]["forget"]["loss"].value),
    ):
        own = [r for r in found.records if r["model"] == row.name and ("loss", r["text"], r["sample"]) in half]
        own = [r for r in own if r["kind"] == "loss" and r["text"] == "forget"]
        assert loss == pytest.approx(sum(r["nll"] for r in own) / sum(r["tokens"] for r in own))
    assert found.heldout.models == (found.rows[0].name, row.name, lab["base"])
    earlier = [one for one in found.rows if one.alpha < row.alpha]
    assert not any(found.aim.is_met(one.choosing, found.rows[0].choosing) for one in earlier)
    assert found.aim.is_met(row.choosing, found.rows[0].choosing)


def test_the_model_is_as_it_was_bit_for_bit(lab, monkeypatch):
    seen = []

    def spy(*arguments, **options):
        model = load_model(*arguments, **options)
        seen.append((model, {name: one.clone() for name, one in model.state_dict().items()}))
        return model

    load_model = models.load_model
    monkeypatch.setattr(models, "load_model", spy)
    edit = {"negate": [lab["forget"]], "add": [lab["retain"]], "target": 5.0}
    sweep(lab["tuned"], lab["data"], **edit, alphas=[0.3, 1.7], **LOSSES)
    sweep(lab["tuned"], lab["data"], **edit, gradient=2, kl=0.5, **LOSSES)
    assert len(seen) == 2  # loaded once each
    for model, before in seen:
        for name, values in model.state_dict().items():
            assert torch.equal(values.view(torch.uint8), before[name].view(torch.uint8)), name


def test_nothing_is_recommended_without_an_aim_or_out_of_reach(lab, tmp_path):
    done = command(lab, "--negate", lab["forget"], "--alpha", "0.1", "--json", *OPTIONS, "-o", tmp_path / "s")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["recommended"], found["rule"], found["recipe"]) == (None, None, None)
    assert "name a --reference MODEL" in done.stderr
    assert not (tmp_path / "s" / "recipe.yaml").exists()
    done = command(lab, "--negate", lab["forget"], "--alpha", "0.1", "--target", "50", "--json", *OPTIONS)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["recommended"] is None
    assert "no edit reaches the target" in done.stderr


def test_a_budget_and_a_method_that_looks_at_another_vector(lab, tmp_path):
    project = ["--method", "project", "--protect", lab["retain"]]
    done = command(
        lab, "--negate", lab["forget"], "--alpha", "0.5,1", "--budget", "9", *project, *OPTIONS, "-o", tmp_path / "s"
    )
    assert done.exit_code == 0, done.output
    recipe = yaml.safe_load((tmp_path / "s" / "recipe.yaml").read_text())
    assert (recipe["method"], recipe["protect"], recipe["alpha"]) == ({"name": "project"}, [lab["retain"]], 1.0)
    done = CliRunner().invoke(
        app, ["apply", "--config", str(tmp_path / "s" / "recipe.yaml"), "--dry-run", "-o", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no vector is given"),
        (["--negate", "gone.safetensors"], 1, "there is no vector gone.safetensors"),
        (["--negate", "{forget}", "--alpha", "nan"], 2, "cannot read alpha 'nan'"),
        (["--negate", "{forget}", "--alpha", "1,1"], 2, "cannot sweep alphas"),
        (["--negate", "{forget}", "--target", "nan"], 2, "target is nan"),
        (["--negate", "{forget}", "--budget", "inf"], 2, "budget is inf"),
        (["--negate", "{forget}", "--budget", "1", "--target", "1"], 2, "two rules"),
        (["--negate", "{forget}", "--reference", "{base}", "--target", "1"], 2, "two levels"),
        (["--negate", "{forget}", "--reference", "{tuned}"], 2, "the reference is the model itself"),
        (["--negate", "{forget}", "--search", "3"], 2, "a search needs an aim"),
        (["--negate", "{forget}", "--search", "-3", "--target", "1"], 2, "by trials or by gradient"),
        (["--negate", "{forget}", "--search", "3", "--gradient", "3", "--target", "1"], 2, "by trials or by gradient"),
        (["--negate", "{forget}", "--search", "3", "--target", "1", "--alpha", "1"], 2, "two bounds"),
        (["--negate", "{forget}", "--by", "layer"], 2, "belong to a search"),
        (["--negate", "{forget}", "--gradient", "3", "--target", "1", "--by", "head"], 2, "unknown parts 'head'"),
        (["--negate", "{forget}", "--gradient", "3", "--target", "1", "--kl", "-1"], 2, "kl is -1"),
        (["--negate", "{forget}", "--scale", "nowhere=1"], 2, "'nowhere' names no tensor"),
        (["--negate", "{forget}", "--method", "sorcery"], 2, "unknown method 'sorcery'"),
        (["--negate", "{forget}", "--method", "project"], 2, "method project needs --protect"),
        (["--negate", "{forget}", "--weights", "w"], 1, "there is no file w"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(lab, tmp_path, arguments, code, words):
    done = command(lab, *(one.format(**lab) for one in arguments), "--prompts", "0", "-o", tmp_path / "s")
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_texts_of_one_side_and_a_vector_of_another_model_are_refused(lab, tmp_path):
    for names in (["forget"], ["retain"]):
        texts = {name: lab["data"][name] for name in names}
        with pytest.raises(UsageError, match="no text is to be"):
            sweep(lab["tuned"], texts, negate=[lab["forget"]])
    other = tiny.save_model(tmp_path / "other", "gpt2")
    done = command(lab, "--negate", f"{other}@@{lab['base']}", *OPTIONS, "-o", tmp_path / "s")
    assert done.exit_code == 1
    assert not (tmp_path / "s").exists()


# searches


def test_a_search_goes_on_where_it_stopped(lab, tmp_path):
    pytest.importorskip("optuna")
    options = {"negate": [lab["forget"]], "add": [lab["retain"]], "reference": lab["base"], **LOSSES}
    whole = sweep(lab["tuned"], lab["data"], **options, search=8)
    file = str(tmp_path / "trials.jsonl")
    first = sweep(lab["tuned"], lab["data"], **options, search=6, storage=file)
    assert first.trials == whole.trials[:6]
    second = sweep(lab["tuned"], lab["data"], **options, search=8, storage=file)
    assert second.trials == whole.trials
    again = sweep(lab["tuned"], lab["data"], **options, search=3, storage=file)
    assert len(again.trials) == 8  # nothing is tried, nothing is lost
    other = sweep(lab["tuned"], lab["data"], **options | {"add": []}, search=2, storage=file)
    assert len(other.trials) == 2  # another problem
    assert whole.names == ("1 learned-1", "2 learned-0")
    assert [trial.values[0] for trial in whole.trials[:5]] == [0.0] * 5  # plain negation first
    kept = sweep(lab["tuned"], lab["data"], **options, search=1, storage=f"sqlite:///{tmp_path / 'trials.db'}")
    assert len(kept.trials) == 1


def test_what_a_search_finds_is_what_apply_writes(lab, tmp_path):
    pytest.importorskip("optuna")
    options = ["--by", "layer", "--by", "module", "--search", "7", "--target", "3", *OPTIONS]
    done = command(lab, "--negate", lab["forget"], *options, "-o", tmp_path / "s", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["trials"]) == 7
    assert len(found["rows"]) == 4
    scale = found["recipe"]["operands"][0]["scale"]
    assert list(scale) == ["*"] + [f"model.layers.{n}-{n}.{kind}" for n in (0, 1) for kind in ("mlp", "self_attn")]
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["apply", "--config", str(tmp_path / "s" / "recipe.yaml"), "-o", str(out), "--quiet"]
    )
    assert done.exit_code == 0, done.output
    name = found["recommended"]["name"]
    assert (
        evaluate([str(out)], lab["data"], **SMALL).scores.to_json()["scores"][str(out)]["forget"]["loss"]
        == (found["scores"][name]["forget"]["loss"])
    )


def test_a_search_without_its_extra_names_it(lab, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = command(lab, "--negate", lab["forget"], "--search", "3", "--target", "1", *OPTIONS)
    assert done.exit_code == 2
    assert "taskarith[search]" in done.stderr


def test_a_storage_that_cannot_be_used_is_named(lab, tmp_path):
    pytest.importorskip("optuna")
    (tmp_path / "file").write_text("")
    for storage in (f"{tmp_path / 'file'}/trials.jsonl", "nosuchbase://x"):
        done = command(
            lab, "--negate", lab["forget"], "--search", "3", "--target", "1", "--storage", storage, "--prompts", "0"
        )
        assert done.exit_code == 1, done.output
        assert "cannot keep trials in" in done.stderr
    for text in ("thesis", "thesis\n", '{"a": 1}\n', "one\ntwo\n", '"op_code"'):
        (tmp_path / "file").write_text(text)
        with pytest.raises(OutputError, match="kept as it is"):
            open_study(load_optuna(), str(tmp_path / "file"), "study")
        assert (tmp_path / "file").read_text() == text


def test_gradient_descent_keeps_more_than_plain_negation_at_equal_forgetting(lab):
    options = {"reference": lab["base"], **LOSSES}
    grid = [round(0.05 * n, 2) for n in range(41)]
    plain = sweep(lab["tuned"], lab["data"], negate=[lab["forget"]], alphas=grid, **options)
    both = {"negate": [lab["forget"]], "add": [lab["retain"]]}
    found = sweep(lab["tuned"], lab["data"], **both, gradient=20, **options)
    assert plain.chosen is not None
    best, other = found.rows[1].choosing, plain.rows[plain.chosen].choosing
    assert best.keep_loss < other.keep_loss
    assert found.aim.is_met(best, found.rows[0].choosing)
    assert found.trials[0].values == (0.0, 1.0)  # vectors in the order of apply: those that are added first


def test_gradients_are_those_of_losses_and_kl(lab):
    loaded = open_model(lab["tuned"], torch.device("cpu"), None, SILENT)
    measurement = Measurement(32, 0, 6, 8, "auto")
    samples = ask(loaded, {name: load_data(path) for name, path in lab["data"].items()}, measurement).samples
    memory = InMemoryEdit(loaded.model, lab["tuned"], [lab["retain"]], [lab["forget"]])
    space = Space(memory.edit, find_parts(memory.dimensions, ["module"]), 0.0, 2.0)
    bench = TrialModel(loaded, samples, measurement, memory, space, Rule(budget=1.0), 0.7)
    slope = Slope(bench)
    assert slope.nbytes == 2 * sum(one.nbytes for one in loaded.model.parameters())
    values = [0.1, 0.2, 0.3, 0.8, 0.9, 1.0]
    bench.attempt(values)
    found = slope.at({"forget": -2.0, "retain": 0.5}, 0.7)
    for place, got in enumerate(found.tolist()):
        sides = []
        for change in (-0.02, 0.02):
            near = bench.attempt([*values[:place], values[place] + change, *values[place + 1 :]]).point
            sides.append(-2 * near.forget_loss + 0.5 * near.keep_loss + 0.7 * near.kl)
        assert got == pytest.approx((sides[1] - sides[0]) / 0.04, rel=0.02, abs=2e-3)


@pytest.mark.parametrize(
    ("values", "goal", "limit", "lacking", "step"),
    [
        ([1, 1], [3, 4], [0, 0], 0.0, [-0.06, -0.08]),  # nothing to mind: straight down
        ([1, 1], [3, 4], [0, 2], 0.0, [-0.1, 0]),  # along the bound
        ([1, 1], [3, 4], [0, 2], 0.2, [-0.1, 0.1]),  # and onto it
        ([1, 1], [3, 4], [0, 2], -0.2, [-0.1, -0.1]),  # from above too
        ([1, 1], [3, 4], [0, 2], 9.0, [-0.1, 0.3]),  # but not too far at once
        ([0, 1], [3, 4], [0, 2], 0.2, [0, 0.1]),  # never outwards
        ([0, 2], [3, -4], [0, 0], 0.0, [0, 0]),
    ],
)
def test_a_step_goes_down_along_the_bound_and_onto_it(values, goal, limit, lacking, step):
    arrays = [torch.tensor(one, dtype=torch.float64) for one in (values, goal, limit)]
    assert project(*arrays, lacking, 0.1, (0.0, 2.0)).tolist() == pytest.approx(step)
