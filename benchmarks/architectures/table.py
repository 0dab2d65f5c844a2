"""What the sweep found, as tables in Markdown."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from benchmarks.architectures.steps import STEPS, Result
from benchmarks.results import bullets

__all__ = ["SYMBOLS", "report"]

SYMBOLS = {"right": "+", "refused": "R", "wrong": "X", "impossible": "-"}

_LEGEND = """`+` right, `R` refused (an error of taskarith), `X` wrong, `-` not possible: PEFT or transformers cannot do
what the step compares with, or the model has no such part. Base and fine-tune are tiny and random; in the fine-tune
every float tensor of the files but masks has moved.

| step | what is right |
|---|---|
"""


def report(results: Mapping[str, Result], absent: Sequence[str] = ()) -> str:
    """Return everything as Markdown.

    :param results: By architecture.
    :param absent: Architectures that were not run.
    """
    built = {name: result for name, result in results.items() if not result.unbuilt}
    counts = Counter(outcome.kind for result in built.values() for outcome in result.steps.values())
    found = ", ".join(f"{counts[kind]:,} {kind}" for kind in SYMBOLS)
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch"))
    legend = _LEGEND + "\n".join(f"| {name} | {step.__doc__} |" for name, step in STEPS.items())
    parts = [
        "# Results of `make architectures`",
        f"{len(built)} architectures built of {len(results)}; steps: {found}. {versions}.",
        legend,
        _table(built),
    ]
    for kind in ("wrong", "refused", "impossible"):
        parts += [f"## {kind.capitalize()}", _reasons(built, kind)]
    unbuilt = [f"{name}: {result.unbuilt}" for name, result in results.items() if result.unbuilt]
    parts += ["## Not built", bullets(unbuilt or ["All were built."])]
    if absent:
        parts += ["## Not run", ", ".join(absent)]
    return "\n\n".join(parts) + "\n"


def _table(results: Mapping[str, Result]) -> str:
    lines = [["architecture", *STEPS], ["---", *[":-:"] * len(STEPS)]]
    for name, result in results.items():
        lines.append([name, *(SYMBOLS[result.steps[s].kind] if s in result.steps else "" for s in STEPS)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _reasons(results: Mapping[str, Result], kind: str) -> str:
    """List the reasons of one kind of outcome, those that differ in names and numbers only as one."""
    alike: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name, result in results.items():
        for step, outcome in result.steps.items():
            if outcome.kind == kind:
                pattern = re.sub(r"([\w'./:-]*[\d._/][\w'./:-]*(, | and |))+", "*", outcome.reason)
                alike[step, pattern].append((name, outcome.reason))
    lines = []
    for (step, _), cases in sorted(alike.items(), key=lambda item: list(STEPS).index(item[0][0])):
        names = ", ".join(name for name, _ in cases)
        lines.append(f"{step}, {len(cases)} ({names}): {cases[0][1]}")
    return bullets(lines or ["Nothing."])
