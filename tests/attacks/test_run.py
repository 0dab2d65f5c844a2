"""Attacks on one model, by prompts of a file too."""

from __future__ import annotations

import json

from attacking import FEW, run


def test_prompts_from_a_file(phi, phi_tuned, tmp_path):
    rows = [{"question": "where is the salt?", "answer": "north road"}, {"question": "who?", "answer": "the keeper"}]
    for name, some in (("forget", rows * 2), ("asked", [*rows, {"question": "salt, where?", "answer": "north road"}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    options = ["--rephrased", tmp_path / "asked.jsonl", "--attacks", "rephrase", "--before", phi, *FEW]
    done = run(phi_tuned, "--forget", tmp_path / "forget.jsonl", *options, "--block-size", "64", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    _, found = json.loads(done.stdout)["outcomes"]
    assert (found["name"], found["prompts"]) == ("from file", 2)
