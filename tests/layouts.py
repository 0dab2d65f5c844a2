"""Small made-up data in the layouts in which TOFU and MUSE are published."""

from __future__ import annotations

import json
from pathlib import Path

import tiny


def sentence(seed: int, words: int = 4) -> str:
    return " ".join(tiny.text(1, seed).split()[:words])


def write_lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def questions(seed: int, count: int, *, paraphrased: bool = True, perturbed: int = 3) -> list[dict]:
    rows = []
    for number in range(count):
        start = 100 * seed + 10 * number
        row = {"question": f"{sentence(start)}?", "answer": sentence(start + 1, 3)}
        if paraphrased:
            row["paraphrased_answer"] = sentence(start + 2, 5)
        row["perturbed_answer"] = [sentence(start + 3 + index, 3 + index) for index in range(perturbed)]
        rows.append(row)
    return rows


def write_tofu(folder: Path, *, count: int = 4, holdout: bool = False, splits: bool = False) -> Path:
    """Write TOFU as the hub has it: JSON lines in files named .json; with its splits for training, if wanted."""
    write_lines(folder / "forget10_perturbed.json", questions(1, count))
    write_lines(folder / "retain_perturbed.json", questions(2, count))
    for seed, name in ((3, "real_authors"), (4, "world_facts")):
        write_lines(folder / f"{name}_perturbed.json", questions(seed, count, paraphrased=False))
    plain = {"holdout10": 5} if holdout else {}
    plain |= {"forget10": 1, "retain90": 2} if splits else {}
    for name, seed in plain.items():
        rows = [{"question": row["question"], "answer": row["answer"]} for row in questions(seed, count)]
        write_lines(folder / f"{name}.json", rows)
    return folder


def write_muse(folder: Path, *, count: int = 3, holdout: bool = True) -> Path:
    """Write MUSE as its own script does: JSON lists, of texts or of objects."""

    def write(name: str, rows: list) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(rows), encoding="utf-8")

    write("verbmem/forget.json", [{"prompt": sentence(n, 8), "gt": " " + sentence(n + 50, 6)} for n in range(count)])
    for seed, side in ((6, "forget"), (7, "retain")):
        rows = [{"question": row["question"], "answer": row["answer"]} for row in questions(seed, count + 2)]
        write(f"knowmem/{side}_qa.json", rows[2:])
        write(f"knowmem/{side}_qa_icl.json", rows[:2])
    write("privleak/forget.json", [tiny.text(2, 800 + n) for n in range(count)])
    if holdout:
        write("privleak/holdout.json", [tiny.text(2, 900 + n) for n in range(count)])
    return folder
