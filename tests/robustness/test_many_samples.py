"""No command looks at all samples for each of them: with more samples, lines of its code run as many times more."""

from __future__ import annotations

import re

import tiny
from line_counts import SLACK, lines_run
from rows import write_lines

FEW, MANY = 16, 128
TEXTS = "--data forget=forget.jsonl --data retain=retain.jsonl"
SMALL = "--prompts PROMPTS --continuation-tokens 4 --batch-size 8"
COMMANDS = [
    f"eval MODEL {TEXTS} --data holdout=holdout.jsonl {SMALL} --draws 2 -o measured",
    "score measured --full",
    "report measured -o report.html",
    f"sweep MODEL --negate TUNED@@MODEL --alpha 0,1 --budget 1 {TEXTS} {SMALL} -o swept",
    "finetune MODEL --data forget.jsonl --retain retain.jsonl --num-train-epochs 1 -o tuned",
    "finetune MODEL --objective npo --data forget.jsonl --retain retain.jsonl --num-train-epochs 1 -o forgot",
    "importance MODEL --forget forget.jsonl --retain retain.jsonl -o weights.safetensors",
    "relate TUNED@@MODEL TUNED@@MODEL --data a=forget.jsonl --data b=retain.jsonl",
]


def write(folder, count):
    """Write texts of so many questions each."""
    folder.mkdir()
    for seed, name in enumerate(("forget", "retain", "holdout")):
        words = tiny.text(2 * count, seed).split(". ")
        rows = [{"question": f"{words[2 * n]}?", "answer": f"{words[2 * n + 1]}."} for n in range(count)]
        write_lines(folder / f"{name}.jsonl", rows)


def test_lines_grow_as_samples_do(tmp_path, monkeypatch, phi, phi_tuned):
    found = {}
    for count in (FEW, MANY):
        write(tmp_path / str(count), count)
        monkeypatch.chdir(tmp_path / str(count))
        places = {"MODEL": str(phi), "TUNED": str(phi_tuned), "PROMPTS": str(count)}
        for command in COMMANDS:
            words = re.sub("|".join(places), lambda name, known=places: known[name[0]], command).split()
            found[command, count] = lines_run(words) / count
    grown = {command: found[command, MANY] / share for (command, count), share in found.items() if count == FEW}
    assert {command: growth for command, growth in grown.items() if growth > SLACK} == {}
