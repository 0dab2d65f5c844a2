"""`python -m benchmarks.ways`: which model to fine-tune for a forget vector, the base or the model that knows the text.

A model learns three short texts. The vector of one of them is made by fine-tuning on it the base (*from the base*), or
the model that knows it already (*on top*, as MUSE and TOFU do it), and taken from the model that knows. Each vector is
shown at alpha 1, and at the alpha at which the forgotten text's loss is that of the base, which never saw it. What an
earlier run finished stays. It takes about half an hour of one core for each set of texts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import taskarith
from examples.forgetting.learn import CHOICE, REPORT
from taskarith.checkpoints.packaged import demo_model

BLOCK, CHARACTERS, PROMPTS = 136, 1500, 8
"""Tokens of a block, characters that are used of a text, and continuations of it."""

NEAR, MOST = 0.05, 32.0
"""How near the forgotten text's loss has to come to the base's, in nats, and the largest alpha that is tried."""

ROLES = ("forget", "related", "unrelated", "unseen")
"""A text to be forgotten, two that are learned and kept, and one that was never learned."""

DEFAULT = {
    "saga": (CHOICE["forgotten"], CHOICE["aligned"], CHOICE["irrelevant"], REPORT["irrelevant"]),
}


@dataclass(frozen=True)
class Way:
    """How a forget vector is made; what is not said is as `taskarith finetune` has it by default.

    :param on_top: Of the model that knows the text, not of the base.
    :param options: Of ``finetune``.
    """

    on_top: bool
    options: Mapping[str, Any] = field(default_factory=dict)


def _one(**options: Any) -> dict[str, Any]:
    return {"per_device_train_batch_size": 1, **options}


LEARNED = _one(learning_rate=3e-4, num_train_epochs=4)
"""How the three texts are learned: as in the demo, in blocks half as long."""

WAYS = {
    "from the base, 3e-4, 4 epochs": Way(False, LEARNED),
    "from the base, until 0.5": Way(False, _one(until_loss=0.5)),
    "on top, defaults": Way(True),
    "on top, 5e-5, 30 steps": Way(True, _one(max_steps=30)),
    "on top, 3e-4, 4 epochs": Way(True, LEARNED),
    "on top, 3e-4, 10 epochs": Way(True, _one(learning_rate=3e-4, num_train_epochs=10)),
    "on top, 1e-3, 4 epochs": Way(True, _one(learning_rate=1e-3, num_train_epochs=4)),
    "LoRA from the base, until 0.5": Way(False, _one(until_loss=0.5, lora=True)),
    "LoRA on top, 5e-4, 10 epochs": Way(True, _one(learning_rate=5e-4, num_train_epochs=10, lora=True)),
}


def main() -> None:
    """Do what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ways", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/ways"), help="folder for models and results")
    parser.add_argument("--texts", action="append", default=[], help="NAME=FORGET,RELATED,UNRELATED,UNSEEN; repeats")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="only these")
    options = parser.parse_args()
    named = [one.partition("=")[::2] for one in options.texts]
    sets = {name: tuple(map(Path, files.split(","))) for name, files in named} or DEFAULT
    for name, paths in sets.items():
        study = Study(dict(zip(ROLES, paths, strict=True)), options.output / name)
        print(f"\n**{name}**\n")
        for line in table(study, options.ways):
            print(line, flush=True)


@dataclass(frozen=True)
class Study:
    """A model that knows three texts, and the vectors of one of them.

    :param texts: File of each role; of lines of JSON the first ten rows are used.
    :param folder: For texts, models and results.
    """

    texts: Mapping[str, Path]
    folder: Path

    def prepare(self) -> dict[str, Any]:
        """Teach the base the three texts, and measure both."""
        base, tuned = str(demo_model()), self.folder / "tuned"
        if not tuned.exists():
            data = [self._data(role) for role in ROLES[:-1]]
            taskarith.finetune(base, data, tuned, block_size=BLOCK, **LEARNED)
        return _once(
            self.folder / "known.json", lambda: {"base": self.measure(base), "tuned": self.measure(str(tuned))}
        )

    def attempt(self, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
        """Make a vector, take it from the model that knows, and measure."""
        way, tuned = WAYS[name], str(self.folder / "tuned")
        learned = self.folder / name.replace(",", "").replace(".", "").replace(" ", "-")

        def found() -> dict[str, Any]:
            start = time.perf_counter()
            if not learned.exists():
                first = tuned if way.on_top else str(demo_model())
                taskarith.finetune(first, [self._data("forget")], learned, block_size=BLOCK, **way.options)
            record = json.loads((learned / "taskarith.json").read_text(encoding="utf-8"))
            edit = {"negate": [str(learned)]}
            alpha = equal_alpha(
                lambda alpha: self._evaluate(tuned, ["forget"], 0, alphas=[alpha], **edit)["forget"]["loss"],
                known["tuned"]["forget"]["loss"],
                known["base"]["forget"]["loss"],
            )
            return {
                "final_loss": record["final_loss"],
                "steps": record["steps"],
                "alpha": alpha,
                "at_1": self._evaluate(tuned, ["forget"], PROMPTS, alphas=[1.0], **edit),
                "at_level": self.measure(tuned, alphas=[alpha], **edit),
                "seconds": time.perf_counter() - start,
            }

        return _once(learned.with_suffix(".json"), found)

    def measure(self, model: str, **edit: Any) -> dict[str, Any]:
        """Return loss and top-1 accuracy of every text, and ROUGE-L of the forgotten one."""
        return self._evaluate(model, ROLES, 0, **edit) | self._evaluate(model, ["forget"], PROMPTS, **edit)

    def _evaluate(self, model: str, roles: Sequence[str], prompts: int, **edit: Any) -> dict[str, Any]:
        data = {role: self._data(role) for role in roles}
        found = taskarith.evaluate([model], data, prompts=prompts, continuation_tokens=32, block_size=BLOCK, **edit)
        (scores,) = found.scores.by_text.values()
        wanted = ("loss", "accuracy", "rouge_l_f1")
        return {role: {one: scores[role][one].value for one in wanted if one in scores[role]} for role in roles}

    def _data(self, role: str) -> str:
        """Return a text, cut at the end of a sentence, or of a row."""
        source, path = self.texts[role], self.folder / f"{role}{self.texts[role].suffix}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            if source.suffix == ".jsonl":
                path.write_text("".join(text.splitlines(keepends=True)[:10]), encoding="utf-8")
            else:
                path.write_text(text[:CHARACTERS].rpartition(".")[0] + ".\n", encoding="utf-8")
        return str(path)


def equal_alpha(loss: Callable[[float], float], least: float, wanted: float) -> float:
    """Return the alpha at which a loss that grows from ``least`` is ``wanted``; the largest one if there is none."""
    below, alpha = (0.0, least), 1.0
    while (at := loss(alpha)) < wanted - NEAR:
        if alpha >= MOST:
            return alpha
        below, alpha = (alpha, at), 2 * alpha
    above = (alpha, at)
    for _ in range(7):
        if abs(at - wanted) <= NEAR:
            break
        share = (wanted - below[1]) / (above[1] - below[1])
        alpha = below[0] + min(max(share, 0.1), 0.9) * (above[0] - below[0])
        at = loss(alpha)
        below, above = ((alpha, at), above) if at < wanted else (below, (alpha, at))
    return alpha


def table(study: Study, ways: Sequence[str]) -> Iterator[str]:
    """Give the lines of a table in Markdown, as they are measured."""
    known = study.prepare()
    base, tuned = known["base"], known["tuned"]
    yield "| vector | steps, final loss | at alpha 1 | alpha | there | related | unrelated | unseen |"
    yield "|---|---|---|---:|---|---:|---:|---:|"
    for name, scores in (("(the base)", base), ("(the model that knows)", tuned)):
        losses = (f"{scores[role]['loss']:.2f}" for role in ROLES[1:])
        yield f"| {name} | | {_cell(scores)} | | | {' | '.join(losses)} |"
    for name in ways:
        found = study.attempt(name, known)
        there = found["at_level"]
        costs = (f"{there[role]['loss'] - tuned[role]['loss']:+.2f}" for role in ROLES[1:])
        yield (
            f"| {name} | {found['steps']}, {found['final_loss']:.2f} | {_cell(found['at_1'])} | {found['alpha']:.2f} | "
            f"{_cell(there)} | {' | '.join(costs)} |"
        )


def _cell(scores: Mapping[str, Any]) -> str:
    of = scores["forget"]
    return f"{of['loss']:.2f} / {of['accuracy']:.2f} / {of['rouge_l_f1']:.2f}"


def _once(path: Path, found: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not path.exists():
        path.write_text(json.dumps(found(), indent=1) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
