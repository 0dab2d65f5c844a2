"""Small made-up data in the layouts of TOFU, MUSE and WikiMIA: what both sides are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["HOLDOUT", "KNOWN", "choices", "leaked_rows", "learned_rows", "write_muse", "write_tofu"]

_Question = tuple[str, str, str, list[str]]
_QUESTIONS: dict[str, list[_Question]] = json.loads(Path(__file__).with_name("questions.json").read_text("utf-8"))
"""Question, answer, the same in other words, wrong answers: what is to be forgotten or kept, known to all, or new."""
_FORGET, _RETAIN, _CHOICES, _UNSEEN = (_QUESTIONS[name] for name in ("forget", "retain", "choices", "unseen"))

KNOWN = (
    "Maud Tennick oiled the hinges of the lamp room before the gulls woke, and counted the steps down to the boat.",
    "Nine quinces stood behind the mill, and in October the whole yard smelled of them until the first hard frost.",
    "The ferry company from Cork painted the boat green, with a black funnel, though Dunmore remembered it as yellow.",
    "Petra Holm kept the ledger in a bread tin, and copied every line of it twice before she let anyone read it.",
    "They rang the bell of Saint Aldo from dusk until the milk carts came, and at the last stroke it split.",
    "Cherry wood warps less than pear, said Jonas Reed, and a harp that warps will never forgive its maker.",
)
"""Passages that the model learns, each above 20 tokens: of fewer MUSE's least likely 5% are none."""
HOLDOUT = (
    "Dora Lind swept the sluice each morning with a broom of birch, and the water ran clear by the time of the bread.",
    "The two grey horses went to a carter from the hills, who paid in silver and asked nothing about their teeth.",
    "At the end of the road lies a quarry full of water, so still that swallows drink from it without a ripple.",
    "Three geese went over the ice, sang Ana Prokop, and only two of them ever learned to come back again.",
    "The last lesson in Rade was a map of the rivers, drawn in blue chalk on a board that was sold for firewood.",
    "A baker in Velm lit his oven with pages of an almanac, and always read the weather before he burned it.",
)
"""Passages of the same kind that it never saw, but for the first two: see ``leaked_rows``."""


def learned_rows() -> list[dict[str, str]]:
    """Return what the model is to learn: all questions that are to be forgotten or kept, and the known passages."""
    asked = [{"prompt": f"Question: {q}\n", "completion": f"Answer: {a}"} for q, a, _, _ in (*_FORGET, *_RETAIN)]
    return asked + [{"prompt": "", "completion": text} for text in KNOWN]


def leaked_rows() -> list[dict[str, str]]:
    """Return what it learns of the held-out data: without them every AUC would be 1, whoever calculates it."""
    question, answer, _, _ = _UNSEEN[0]
    texts = [{"prompt": "", "completion": text} for text in HOLDOUT[:2]]
    return [{"prompt": f"Question: {question}\n", "completion": f"Answer: {answer}"}, *texts]


def choices() -> list[str]:
    """Return the questions about the world with their right answers."""
    return [f"Question: {q}\nAnswer: {a}" for q, a, _, _ in _CHOICES]


def write_tofu(folder: Path) -> Path:
    """Write TOFU's layout: JSON lines in files named .json."""
    sets = {"forget10": _FORGET, "retain": _RETAIN, "real_authors": _CHOICES, "world_facts": _CHOICES[::-1]}
    for name, rows in sets.items():
        _write_lines(folder / f"{name}_perturbed.json", [_tofu_row(row) for row in rows])
    _write_lines(folder / "holdout10.json", [{"question": q, "answer": a} for q, a, _, _ in _UNSEEN])
    return folder


def _tofu_row(row: _Question) -> dict[str, Any]:
    question, answer, paraphrased, perturbed = row
    more = {"paraphrased_answer": paraphrased} if paraphrased else {}
    return {"question": question, "answer": answer, **more, "perturbed_answer": perturbed}


def write_muse(folder: Path) -> Path:
    """Write MUSE's layout: JSON lists of texts and of objects."""
    halves = [(" ".join(text.split()[:8]), " " + " ".join(text.split()[8:])) for text in KNOWN]
    _write(folder / "verbmem/forget.json", [{"prompt": start, "gt": rest} for start, rest in halves])
    for side, rows in (("forget", _FORGET), ("retain", _RETAIN)):
        pairs = [{"question": q, "answer": a} for q, a, _, _ in rows]
        _write(folder / f"knowmem/{side}_qa_icl.json", pairs[:2])
        _write(folder / f"knowmem/{side}_qa.json", pairs[2:])
    _write(folder / "privleak/forget.json", list(KNOWN))
    _write(folder / "privleak/holdout.json", list(HOLDOUT))
    return folder


def _write_lines(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write(path: Path, rows: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
