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
from taskarith.evaluation.read_records import read_tables


def test_all_attacks_from_python(phi, phi_tuned, retain, forget, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(6, 9), encoding="utf-8")
    how = {"before": str(phi), "reference": str(retain), "unrelated": str(other), **SMALL}
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
    done = run(phi_tuned, "--forget", forget, "--before", phi, "--reference", retain, *FEW, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "records.jsonl", "taskarith.json", "recovery.svg", "recovery.png", "report.html"}
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
    sheets = {sheet.model: sheet for sheet in read_tables(tmp_path / "out")}
    assert {"before", "edited int8", "retain forget 2"} <= set(sheets)
    assert len(sheets["edited"].of("continuation", "prefix 12 sampled")) == 6


def _has_shares(results, metric):
    return any(found["cells"].get(metric, {}).get("beyond") is not None for found in results["outcomes"])


def test_a_broken_model_is_named(phi, forget, tmp_path):
    broken = AutoModelForCausalLM.from_pretrained(phi)
    broken.model.layers[0].mlp.fc1.bias.data[0] = math.nan
    broken.save_pretrained(tmp_path / "broken")
    tiny.tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(CheckpointError, match=r"retain \(.*broken\): the loss of forget.txt#1 is not finite"):
        taskarith.attack(str(phi), str(forget), reference=str(tmp_path / "broken"), **SMALL)


def test_an_adapter_is_refused(phi, forget, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(phi), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = str(phi)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="is an adapter"):
        taskarith.attack(str(tmp_path / "adapter"), str(forget), **SMALL)
