"""What was found, as tables in Markdown."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median

from benchmarks.measure import Measure
from benchmarks.peers import COPY, MERGEKIT, OURS

__all__ = ["CurvePoint", "EditResult", "Report", "bullets", "machine", "table"]

_LEGEND = """*Process* is the time from start to end of the process, *durable* until its output is on the disk, too.
Memory is the peak over a process and its children: *anonymous* its own, *all* with mapped files. Bytes are those of
system calls; what is read through memory maps is not in them. *Wrong* is an element whose bits are not those of the
float64 result rounded once."""


_KEPT = """What the factors keep of a delta D, |D|^2 - |D - B A|^2, against the best possible for this rank (the sum of
the squares of its largest singular values), both in float64, of the matrix where it is least. *Processor* is time in
user mode, which other programs on the machine disturb less than the clock."""


@dataclass
class EditResult:
    """What one edit took each contender.

    :param title: What was calculated.
    :param elements: Elements of the result.
    :param warm: By contender, its runs with the inputs in the page cache.
    :param cold: By contender, its run with an empty page cache.
    :param differing: By contender, the elements whose bits are not those of the right result.
    :param kept: By contender, what a low-rank result keeps of the best possible energy, least over all matrices.
    """

    title: str
    elements: int
    warm: dict[str, list[Measure]] = field(default_factory=dict)
    cold: dict[str, Measure] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)

    def middle(self) -> dict[str, Measure]:
        """Return the medians of the warm runs, each number for itself."""
        return {name: Measure(*map(median, zip(*map(astuple, runs), strict=True))) for name, runs in self.warm.items()}


@dataclass(frozen=True)
class CurvePoint:
    """What taskarith took for a model of some size."""

    parameters: int
    title: str
    run: Measure


@dataclass
class Report:
    """All that was found, and what could not be run."""

    parameters: int
    rounds: int
    facts: list[str]
    edits: list[EditResult] = field(default_factory=list)
    curve: list[CurvePoint] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return everything as Markdown."""
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        model = f"Phi-1.5's shape with {self.parameters / 1e9:.3g} B parameters in bfloat16"
        about = f"Model: {model}. Warm runs: medians of {self.rounds} interleaved rounds.\n{_LEGEND}"
        parts = [f"# Results of `make bench`, {today}", bullets(self.facts), about]
        if self.edits:
            parts += ["## Goals", _goals(self.edits)]
        for edit in self.edits:
            parts += [f"## {edit.title[0].upper()}{edit.title[1:]}", _edit_table(edit)]
            if edit.kept:
                parts += [_KEPT, _kept_table(edit)]
            if edit.cold:
                parts += ["With an empty page cache, one run each:", _cold_table(edit)]
        if self.curve:
            parts += ["## Memory against size (taskarith)", _curve_table(self.curve)]
        parts += ["## What could not be run", bullets(self.remarks or ["Everything was run."])]
        return "\n\n".join(parts) + "\n"


def machine(peers: str) -> list[str]:
    """Describe the machine and the versions.

    :param peers: Versions of what taskarith is compared with.
    """
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    ours = ", ".join(f"{name} {version(name)}" for name in ("taskarith", "numpy", "numba", "torch", "safetensors"))
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    system = f"{platform.system()} {platform.release()} on {platform.machine()}"
    return [
        f"{cores} cores of {model}, {memory:.0f} GiB of memory, {system}; load average at the start: {load:.1f}",
        f"Python {platform.python_version()}, {ours}",
        f"Compared with: {peers}",
    ]


def _goals(edits: Sequence[EditResult]) -> str:
    header = ["", "durable / plain copy (goal: at most 1.4)", "x faster than mergekit, float32 (goal: at least 8)"]
    header += ["anonymous MB (goal: under 250)", "wrong elements (goal: 0)"]
    rows = []
    for edit in edits:
        middle = edit.middle()
        if OURS in middle:
            ours, wrong = middle[OURS], edit.differing.get(OURS)
            ratios = [_ratio(ours, middle.get(COPY)), _ratio(middle.get(MERGEKIT), ours)]
            rows.append([edit.title, *ratios, _mega(ours.anonymous), "" if wrong is None else f"{wrong:,}"])
    return table(header, rows)


def _edit_table(edit: EditResult) -> str:
    middle = edit.middle()
    header = [
        "",
        "process s",
        "durable s",
        "durable / copy",
        "x faster than mergekit, float32",
        "anonymous MB",
        "all MB",
    ]
    header += ["read GB", "written GB", "wrong elements"]
    rows = []
    for name, run in middle.items():
        times = [f"{run.seconds:.2f}", f"{run.durable:.2f}", _ratio(run, middle.get(COPY))]
        memory = [_mega(run.anonymous), _mega(run.resident)]
        sizes = [f"{run.read / 1e9:.2f}", f"{run.written / 1e9:.2f}"]
        wrong = _share(edit.differing.get(name), edit.elements)
        rows.append([name, *times, _ratio(middle.get(MERGEKIT), run), *memory, *sizes, wrong])
    return table(header, rows)


def _kept_table(edit: EditResult) -> str:
    header = ["", "1 - kept / best", "processor s", "x less processor time than mergekit, float32"]
    middle, rows = edit.middle(), []
    for name, kept in edit.kept.items():
        time, peer = middle[name].processor, middle.get(MERGEKIT)
        rows.append([name, f"{1 - kept:.1e}", f"{time:.1f}", f"{peer.processor / time:.2f}" if peer else ""])
    return table(header, rows)


def _cold_table(edit: EditResult) -> str:
    copy = edit.cold.get(COPY)
    rows = [
        [name, f"{run.seconds:.2f}", f"{run.durable:.2f}", _ratio(run, copy), f"{run.disk_read / 1e9:.2f}"]
        for name, run in edit.cold.items()
    ]
    return table(["", "process s", "durable s", "durable / copy", "read from disk GB"], rows)


def _curve_table(curve: Sequence[CurvePoint]) -> str:
    rows = []
    for point in curve:
        size, time = f"{point.parameters / 1e9:.3g} B", f"{point.run.durable:.1f}"
        rows.append([size, point.title, _mega(point.run.anonymous), _mega(point.run.resident), time])
    return table(["parameters", "", "anonymous MB", "all MB", "durable s"], rows)


def _ratio(above: Measure | None, below: Measure | None) -> str:
    return f"{above.durable / below.durable:.2f}" if above and below else ""


def _mega(number: float) -> str:
    return f"{number / 1e6:.0f}"


def _share(number: int | None, elements: int) -> str:
    return "" if number is None else f"{number:,} ({number / elements:.2g})" if number else "0"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, numbers to the right of the first column."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    """Return a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)
