"""Attacks: weights come back to the bit, prompts are what they say, and shares are of what the edit took away."""

from __future__ import annotations

import json
import math
import struct

import pytest
import tiny
from attacking import FEW, SMALL, run, samples_of
from transformers import AutoModelForCausalLM

import taskarith
from taskarith.attacks.recovery import METRICS, numbers
from taskarith.errors import CheckpointError, UsageError
from taskarith.evaluation.read_records import read_sheets


def test_all_attacks_from_python(phi, phi_tuned, retain, forget, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(6, 9), encoding="utf-8")
    how = {"before": str(phi), "retain": str(retain), "unrelated": str(other), **SMALL}
    result = taskarith.attack(str(phi_tuned), str(forget), **how)
    names = [(found.attack, found.name, found.view, found.steps) for found in result.outcomes]
    relearning = [
        ("relearn", name, view, steps)
        for name, stops in (("forget text", (1, 3)), ("half of the forget text", (1,)), ("unrelated text", (1, 3)))
        for view in ("held out", "all")
        for steps in (0, *stops)
    ]
    rules = ["half", "lower", "bare", "instructed", "shifted", "worst"]
    prefixes = ["4 greedy", "4 best of 2", "12 greedy", "12 best of 2"]
    assert names == [
        ("none", "edited", "all", 0),
        ("quantise", "int8", "all", 0),
        ("quantise", "int4", "all", 0),
        ("quantise", "int4g128", "all", 0),
        ("quantise", "nf4", "all", 0),
        *relearning,
        *(("rephrase", rule, "all", 0) for rule in rules),
        *(("prefix", prefix, "all", 0) for prefix in prefixes),
    ]
    samples = samples_of(forget)
    given = [name for name in result.given if "#" in name]
    assert len(given) == 1
    held = [r for r in result.records if r["model"] == "edited forget 3" and r["kind"] == "loss"]
    assert {record["sample"] for record in held} == {sample.id for sample in samples}
    kept = [record for record in held if record["sample"] not in given]
    found = next(f for f in result.outcomes if f.view == "held out" and f.steps == 3)
    expected = math.fsum(record["nll"] for record in kept) / sum(record["tokens"] for record in kept)
    assert found.cells["loss"].value == pytest.approx(expected, rel=1e-12)
    learned, ignorant = (
        next(r["nll"] for r in result.records if r["model"] == model and r["sample"] == given[0])
        for model in ("edited forget 3", "edited")
    )
    assert learned < ignorant  # what the attacker has is learned
    whole = taskarith.evaluate([str(phi_tuned)], {"forget": str(forget)}, block_size=32, prompts=0)
    assert result.untouched["edited"]["loss"] == pytest.approx(numbers(whole.records)["loss"], rel=1e-6)
    again = taskarith.attack(str(phi_tuned), str(forget), **how)
    assert again.to_json() == result.to_json()


def test_the_command_writes_table_curve_and_records(phi, phi_tuned, retain, forget, tmp_path):
    done = run(phi_tuned, "--forget", forget, "--before", phi, "--retain", retain, *FEW, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "records.jsonl", "taskarith.json", "recovery.svg", "recovery.png"}
    results = json.loads((tmp_path / "out/results.json").read_text())
    rows = {line.split("  ")[0].strip(): line for line in reversed(done.stdout.splitlines())}  # of the first table
    four = next(found["cells"]["loss"] for found in results["outcomes"] if found["name"] == "int4")
    assert f" {four['value']:.3f}" in rows["quantise: int4"]
    assert f" {four['retain']:.3f}" in rows["quantise: int4"]
    titles = (
        "before the edit",
        "edited",
        "relearn: 2 steps, held out",
        "relearn half: 1 step, held out",
        "rephrase: worst",
    )
    for title in (*titles, f"{phi_tuned} under attack, by ROUGE-L"):
        assert title in rows
    assert [one["metric"] for one in results["strongest"]] == [one for one in METRICS if _has_shares(results, one)]
    assert "at most 3 prompts count, 8 are needed" in done.stderr or "no shares by ROUGE-L" in done.stderr
    assert struct.unpack(">II", (tmp_path / "out/recovery.png").read_bytes()[16:24]) == (1650, 630)
    provenance = json.loads((tmp_path / "out/taskarith.json").read_text())
    assert provenance["kind"] == "attack"
    assert set(provenance["models"]) == {"before", "edited", "retain"}
    assert provenance["arguments"]["bits"] == [8, 4, "4g128", "nf4"]
    sheets = {sheet.model: sheet for sheet in read_sheets(tmp_path / "out")}
    assert {"before", "edited int8", "retain forget 2"} <= set(sheets)
    assert len(sheets["edited"].of("continuation", "prefix 12 sampled")) == 6


def _has_shares(results, metric):
    return any(found["cells"].get(metric, {}).get("beyond") is not None for found in results["outcomes"])


def test_without_references_what_is_missing_is_told(phi, forget):
    done = run(phi, "--forget", forget, "--attacks", "quantise", "--bits", "4", *FEW, "--json")
    assert done.exit_code == 0, done.stderr
    results = json.loads(done.stdout)
    plain, found = results["outcomes"]
    assert (plain["attack"], plain["name"]) == ("none", "edited")
    assert found["cells"]["loss"]["recovered"] is None
    assert [line.partition(":")[0] for line in results["missing"]] == ["recovered and beyond", "beyond"]
    assert "needs a model that never knew the text (--retain)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{phi}"], 2, "--forget"),
        (["{phi}", "--forget", "{text}.gone"], 1, "forget.txt.gone"),
        (["{phi}", "--forget", "{empty}"], 1, "empty.txt has no text"),
        (["{phi}", "--forget", "{text}", "--block-size", "99", "--relearn-samples", "2"], 1, "has 2 samples: too few"),
        (["{phi}", "--forget", "{text}", "--prefixes", "9999"], 1, "too few for a context of 9999"),
        (["{phi}", "--forget", "{text}", "--block-size", "300"], 2, "256 positions"),
        (["{phi}", "--forget", "{text}", "--attacks", "relearn,guess"], 2, "--attacks relearn,guess cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "8,1"], 2, "--bits 1 cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "8,8"], 2, "--bits 8,8 cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "4g0"], 2, "--bits 4g0 cannot be used"),
        (["{phi}", "--forget", "{text}", "--relearn-epochs", "-1"], 2, "--relearn-epochs -1 is out of range"),
        (["{phi}", "--forget", "{text}", "--relearn-steps", "0,2"], 2, "--relearn-steps 0,2 cannot be used"),
        (["{phi}", "--forget", "{text}", "--batch-size", "4,8"], 2, "--batch-size 4,8"),
        (["{phi}", "--forget", "{text}", "--prompts", "0"], 2, "--prompts 0 is out of range"),
        (["{phi}", "--forget", "{text}", "--learning-rate", "nan"], 2, "--learning-rate is nan"),
        (["{phi}", "--forget", "{text}", "--dtype", "bfloat16"], 2, "relearning needs float32 weights"),
        (["{phi}", "--forget", "{text}", "--before", "{phi}"], 2, "a model is given twice"),
        (["{phi}", "--forget", "{text}", "--attacks", "prefix", "--unrelated", "{text}"], 2, "not the attack relearn"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(arguments, code, message, phi, forget, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    result = run(*(a.format(phi=phi, text=forget, empty=empty) for a in arguments), "-o", tmp_path / "out")
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_broken_model_is_named(phi, forget, tmp_path):
    broken = AutoModelForCausalLM.from_pretrained(phi)
    broken.model.layers[0].mlp.fc1.bias.data[0] = math.nan
    broken.save_pretrained(tmp_path / "broken")
    tiny.tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(CheckpointError, match=r"retain \(.*broken\): the loss of forget.txt#1 is not finite"):
        taskarith.attack(str(phi), str(forget), retain=str(tmp_path / "broken"), **SMALL)


def test_an_adapter_is_refused(phi, forget, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(phi), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = str(phi)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="is an adapter"):
        taskarith.attack(str(tmp_path / "adapter"), str(forget), **SMALL)
