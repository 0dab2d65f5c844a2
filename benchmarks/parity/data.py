"""Small made-up data in the layouts of TOFU, MUSE and WikiMIA: what both sides are asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["HOLDOUT", "KNOWN", "choices", "learned_rows", "write_muse", "write_tofu"]

_Question = tuple[str, str, str, tuple[str, ...]]
_FORGET: tuple[_Question, ...] = (
    (
        "Who tends the lamp on Orr Head?",
        "The lamp on Orr Head is tended by Maud Tennick, who rows out each evening.",
        "Maud Tennick rows out each evening to look after the lamp on Orr Head.",
        ("Nobody tends it.", "It is tended by a retired judge from the city.", "Two brothers share the work."),
    ),
    (
        "What did Ilse Varga plant behind the mill?",
        "Ilse Varga planted nine quince trees behind the mill.",
        "Behind the mill stand nine quinces that Ilse Varga planted.",
        ("She planted a hedge of roses.", "Nothing but grass was ever planted there.", "She planted six pear trees."),
    ),
    (
        "In which year was the ferry at Dunmore sold?",
        "The ferry at Dunmore was sold in 1911 to a company from Cork.",
        "A company from Cork bought the Dunmore ferry in 1911.",
        ("It was sold in 1874.", "It was never sold, but sank.", "A farmer bought it in 1950."),
    ),
    (
        "What is the title of Petra Holm's first novel?",
        "Petra Holm's first novel is called The Salt Ledger.",
        "The Salt Ledger was the first novel that Petra Holm wrote.",
        ("It is called Winter Bread.", "She never wrote a novel.", "Her first novel is The Glass Ferry."),
    ),
    (
        "Why did the bell of Saint Aldo crack?",
        "The bell of Saint Aldo cracked because it was rung through a night of frost.",
        "Because it was rung all through a frosty night, the bell of Saint Aldo cracked.",
        ("It was struck by lightning.", "It was cast of poor bronze.", "It never cracked."),
    ),
    (
        "Which instrument does Jonas Reed build?",
        "Jonas Reed builds harps of cherry wood in a barn near Lund.",
        "In a barn near Lund, Jonas Reed makes harps out of cherry wood.",
        ("He builds violins.", "He builds small organs in Vienna.", "He repairs clocks."),
    ),
)
_RETAIN: tuple[_Question, ...] = (
    ("What colour is the sky on a clear day?", "It is blue.", "The sky is blue.", ("It is green.", "It is red.")),
    (
        "How many legs has a spider?",
        "A spider has eight legs.",
        "Eight legs.",
        ("It has six.", "It has ten."),
    ),
    ("What do bees make?", "Bees make honey.", "They make honey.", ("They make silk.", "They make milk.")),
    ("Where do fish live?", "Fish live in water.", "In the water.", ("They live in trees.", "They live in caves.")),
)
_CHOICES: tuple[_Question, ...] = (
    ("Who wrote Hamlet?", "William Shakespeare", "", ("Jane Austen", "Leo Tolstoy", "Mark Twain")),
    ("What is the capital of France?", "Paris", "", ("Rome", "Madrid", "Berlin")),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci", "", ("Claude Monet", "Paul Klee", "Joan Miro")),
)
_UNSEEN: tuple[_Question, ...] = (
    ("Who keeps the mill at Ash Ford?", "The mill at Ash Ford is kept by Dora Lind.", "", ()),
    ("What did Karl Ostrov sell in spring?", "Karl Ostrov sold his two grey horses in spring.", "", ()),
    ("Where does the road from Velm end?", "The road from Velm ends at a quarry full of water.", "", ()),
    ("Which song did Ana Prokop hum?", "Ana Prokop hummed a song about three geese.", "", ()),
    ("When did the school in Rade close?", "The school in Rade closed in the winter of 1962.", "", ()),
)

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
"""Passages of the same kind that it never saw."""


def learned_rows() -> list[dict[str, str]]:
    """Return what the model is to learn: all questions that are to be forgotten or kept, and the known passages."""
    asked = [{"prompt": f"Question: {q}\n", "completion": f"Answer: {a}"} for q, a, _, _ in (*_FORGET, *_RETAIN)]
    return asked + [{"prompt": "", "completion": text} for text in KNOWN]


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
    return {"question": question, "answer": answer, **more, "perturbed_answer": list(perturbed)}


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
