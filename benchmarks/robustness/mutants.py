"""Change the sources, and see what no test notices: ``python -m benchmarks.robustness.mutants``.

mutmut and cosmic-ray serve programs that are quick to start: they take no account of kernels that are compiled from
source (mutmut's switches inside functions cannot be), and start anew for each change what takes 40 seconds to import.
Here a process that has imported torch and the like forks for each mutant, in which only the tests run that ran the
changed line: coverage is measured once, a test file at a time, and kept in benchmarks/.work/mutants. What a mutant is,
and which places are left out, says ``mutations``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import xxhash
import yaml

from benchmarks.robustness.mutations import Mutant, mutants_of
from benchmarks.robustness.sections import RESULTS, write_section

__all__ = ["PACKAGES", "Bench", "main"]

_ROOT = Path(__file__).parents[2]
_WORK = _ROOT / "benchmarks/.work/mutants"
_REASONS = Path(__file__).with_name("survivors.yaml")
PACKAGES = {
    "arithmetic": "taskarith/arithmetic/**/*.py",
    "merging": "taskarith/merging/*.py",
    "vectors": "taskarith/vectors/**/*.py",
    "edit": "taskarith/edit/*.py",
    "inspection": "taskarith/inspection/*.py",
    "checkpoints": "taskarith/checkpoints/*.py",
    "metrics": "taskarith/evaluation/metrics/*.py",
}
_TESTED = ("arithmetic", "merging", "vectors", "edit", "inspection", "checkpoints", "evaluation/metrics")
_TESTS = [
    str(path.relative_to(_ROOT / "tests").with_suffix(""))
    for folder in (*_TESTED, "evaluation/test_records.py", "evaluation/test_score.py")
    for path in sorted((_ROOT / "tests").glob(folder if folder.endswith(".py") else f"{folder}/**/test_*.py"))
    if path.stem not in {"test_jobs", "test_team"}
]
"""Test files that are about these packages (of several processes none); what only others notice counts as unnoticed."""

_KERNELS = {
    f"taskarith/arithmetic/kernels/{kernel}.py": [
        next(test for test in _TESTS if test.endswith(f"/test_{name}")) for name in tests.split()
    ]
    for kernel, tests in {
        "philox": "philox masks ties_dare methods",
        "distances": "distances magnitude diff",
        "inner_products": "inner_products",
        "linear": "calculator linear inner_products",
        "ulp_pack": "ulp_pack ulp_codec exact block_file",
        "low_rank": "calculator low_rank",
        "merging": "merging ties_dare methods",
        "products": "products combination",
        "rounding": "rounding calculator ulp_codec linear",
        "sorting": "sorting linear merging",
        "ulp_unpack": "ulp_unpack ulp_codec exact block_file",
    }.items()
}
"""Test files of the modules that are compiled, where no coverage is measured."""

_SECONDS = 60.0
"""Of tests that are tried with one mutant, as they took with coverage; what all of them miss counts as unnoticed."""

_GRACE = 240.0
"""Seconds that a mutant has beyond ten times those of its tests before it is taken to hang; kernels may compile."""

_OWN = {"taskarith", "benchmarks", "examples", "tests", "tiny", "conftest", "__main__", "__mp_main__"}
_WORDS = f"""Written by `make mutants`. One place of a module is changed as a slip would (a comparison, an operator, a
constant, a condition, a return value, a statement or an argument left out), and the tests run that ran its line, up to
{_SECONDS:.0f} s of them; a mutant is *killed* when one fails or hangs. Samples are drawn by the seed from all places
but words, annotations, and sizes of buffers; the interval is Wilson's, for 95%.

| package | mutants | tried | killed | % | 95% interval | s | seed |
|---|---|---|---|---|---|---|---|"""


@dataclass
class Coverage:
    """What one test file runs.

    :param test: Digest of the test file.
    :param sources: Digests of the files that it ran.
    :param lines: For each file and line (as text), the tests that ran it; "" are those that import it.
    :param seconds: Of each test that passed.
    :param modules: All that was imported.
    """

    test: str = ""
    sources: dict[str, str] = field(default_factory=dict)
    lines: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)

    def tests_of(self, mutant: Mutant, digest: str) -> set[str]:
        """Return the tests that ran the statement of a mutant; where that is not known, all that ran its module."""
        lines = self.lines.get(mutant.path, {})
        found = {name for line in range(mutant.first, mutant.line + 1) for name in lines.get(str(line), [])}
        if "" in found or self.sources.get(mutant.path) != digest:
            found = {name for some in lines.values() for name in some}
        return found & self.seconds.keys()


class Bench:
    """A copy of the sources, in which they are changed and tested.

    :param root: Of the sources.
    :param work: Where the copy and the coverage are kept.
    :param tests: The test files, as paths in ``tests`` without suffix.
    """

    def __init__(self, root: Path, work: Path, tests: list[str]) -> None:
        self.tree, self.log, self._maps = work / "tree", work / "log", work / "coverage"
        self._maps.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(root, self.tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info"))
        self._coverage = {test: self._load(test) for test in tests}
        self._clock, self._cache = 10**9, work / "cache"

    def measure(self) -> None:
        """Run the test files that are new or have changed."""
        for test, known in self._coverage.items():
            if known.test != self.digest(f"tests/{test}.py"):
                self._preload()
                self.fork(lambda test=test: _measure(self, test, self._maps / f"{test.replace('/', '.')}.json"), 3600.0)
                self._coverage[test] = self._load(test)
                if self._coverage[test].test != self.digest(f"tests/{test}.py"):
                    raise RuntimeError(f"{test}.py cannot be run: see {self.log}")
                print(f"{test}.py: {len(self._coverage[test].seconds)} tests", flush=True)
        self._preload()
        self._kernels = {*self._cache.rglob("*.o")}

    def outcome(self, mutant: Mutant) -> str:
        """Return ``killed``, or how a mutant survived."""
        batches = self._choose(mutant)
        path, sound = self.tree / mutant.path, (self.tree / mutant.path).read_bytes()
        try:
            self._write(path, mutant.source(self.tree).encode())
            for tests in batches:
                code = self.fork(lambda tests=tests: _pytest([*tests, "-x"]), _GRACE + 10 * sum(tests.values()))
                if code != 0:
                    return "killed"
        finally:
            self._write(path, sound)
            for kernels in {*self._cache.rglob("*.o")} - self._kernels:
                kernels.unlink()
        return f"{sum(map(len, batches))} tests pass" if batches else "no test runs it"

    def _choose(self, mutant: Mutant) -> list[dict[str, float]]:
        """Return the tests of a mutant with their seconds: first those of its own test file, then the others."""
        path, digest, found = Path(mutant.path), self.digest(mutant.path), {}
        mirror = "/".join([*path.parts[1:-1], f"test_{path.stem}"])
        own = _KERNELS.get(mutant.path, [])
        for test, known in self._coverage.items():
            names = known.seconds if test in own else known.tests_of(mutant, digest)
            found[test] = {name: known.seconds[name] for name in sorted(names, key=known.seconds.__getitem__)}
        first = max(found, key=lambda test: (test == mirror, test in own[:1], len(found[test])))
        others = {name: seconds for test in found if test != first for name, seconds in found[test].items()}
        batches = [found[first], dict(sorted(others.items(), key=lambda item: item[1]))]
        return [some for some in map(_cut, batches) if some]

    def fork(self, call: Callable[[], int], limit: float) -> int:
        """Return what a call returns in a process of its own, which is stopped after some seconds."""
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                _enter(self.tree, self.log)
                code = call()
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        end = time.monotonic() + limit
        while (status := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        if status[0] == 0:
            status = os.waitpid(pid, 0)
        shutil.rmtree(self.tree / ".hypothesis", ignore_errors=True)
        return os.waitstatus_to_exitcode(status[1])

    def digest(self, name: str) -> str:
        """Return what tells one state of a file from another."""
        path = self.tree / name
        return xxhash.xxh3_128_hexdigest(path.read_bytes()) if path.exists() else ""

    def _load(self, test: str) -> Coverage:
        path = self._maps / f"{test.replace('/', '.')}.json"
        return Coverage(**json.loads(path.read_text())) if path.exists() else Coverage()

    def _preload(self) -> None:
        """Import what tests import, but for the sources themselves."""
        for name in {name for known in self._coverage.values() for name in known.modules} - sys.modules.keys():
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    def _write(self, path: Path, data: bytes) -> None:
        """Write a file at a time of its own: Python looks at time and size when it keeps compiled code."""
        path.write_bytes(data)
        self._clock += 10
        os.utime(path, (self._clock, self._clock))


def _cut(tests: dict[str, float]) -> dict[str, float]:
    """Return the first tests, as long as they take no more than is spent on one mutant."""
    total = accumulate(tests.values())
    return {name: seconds for (name, seconds), so_far in zip(tests.items(), total, strict=True) if so_far < _SECONDS}


def _enter(tree: Path, log: Path) -> None:
    """Let this process, and those that it starts, see the copy of the sources alone, and write into a file."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(tree)
    for name in [name for name in sys.modules if name.partition(".")[0] in _OWN]:
        del sys.modules[name]
    sys.modules["__main__"] = ModuleType("__main__")  # processes that tests spawn would import the old one
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in {"", str(_ROOT)})]
    os.environ.update(PYTHONPATH=str(tree), TASKARITH_CACHE=str(tree.parent / "cache"))


def _pytest(arguments: list[str], *plugins: object) -> int:
    import pytest

    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*options, *arguments], plugins=[*plugins]))


def _measure(bench: Bench, test: str, path: Path) -> int:
    """Run a test file with coverage, and keep what was seen."""
    import coverage

    measured = coverage.Coverage(
        data_file=None, config_file=False, source=[str(bench.tree)], omit=["*/tests/*"], messages=False
    )
    known, failed = Coverage(bench.digest(f"tests/{test}.py")), set()

    class Watcher:
        def pytest_runtest_logstart(self, nodeid: str) -> None:
            measured.switch_context(nodeid)

        def pytest_runtest_logreport(self, report: Any) -> None:
            known.seconds[report.nodeid] = known.seconds.get(report.nodeid, 0.0) + report.duration
            if not report.passed:
                failed.add(report.nodeid)

    measured.start()
    _pytest([f"tests/{test}.py"], Watcher())
    measured.stop()
    data = measured.get_data()
    for file in data.measured_files():
        name = os.path.relpath(file, bench.tree)
        known.sources[name] = bench.digest(name)
        known.lines[name] = {str(line): tests for line, tests in data.contexts_by_lineno(file).items()}
    known.modules = [name for name in sys.modules if name.partition(".")[0] not in _OWN]
    for name in failed:
        del known.seconds[name]
    path.write_text(json.dumps(asdict(known)))
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run, and write the section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robustness.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(PACKAGES), metavar="PACKAGE", choices=list(PACKAGES))
    parser.add_argument("--sample", type=int, default=40, help="mutants of each package; 0 for all")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--table", type=Path, default=RESULTS, help="the page to write into")
    options = parser.parse_args(arguments)
    os.nice(10)
    bench = Bench(_ROOT, _WORK, _TESTS)
    bench.measure()
    for package in options.only:
        result = try_package(bench, PACKAGES[package], options.sample, options.seed)
        (_WORK / f"{package}.json").write_text(json.dumps(result))
    write_section(options.table, "Mutants", _table())
    return 0


def try_package(bench: Bench, pattern: str, sample: int, seed: int) -> dict[str, Any]:
    """Try mutants of some modules.

    :param pattern: Of their paths.
    :param sample: Number of mutants; 0 for all.
    :returns: Numbers of mutants, of those tried and killed, and how each of the others survived.
    """
    start, survivors = time.monotonic(), []
    paths = sorted(str(path.relative_to(bench.tree)) for path in bench.tree.glob(pattern))
    every = [mutant for path in paths for mutant in mutants_of(path, bench.tree)]
    tried = Random(seed).sample(every, min(sample or len(every), len(every)))  # noqa: S311 (no secret)
    for mutant in tried:
        outcome = bench.outcome(mutant)
        print(f"{outcome}: {mutant.line}, {mutant.name}", flush=True)
        if outcome != "killed":
            survivors.append([mutant.line, mutant.name, outcome])
    numbers = {"mutants": len(every), "tried": len(tried), "killed": len(tried) - len(survivors), "seed": seed}
    return numbers | {
        "seconds": round(time.monotonic() - start),
        "survivors": sorted(survivors, key=lambda one: one[1]),
    }


def _table() -> str:
    """Return the section: a row for each package that was tried, and all survivors with what is known of them."""
    from scipy.stats import binomtest

    reasons = yaml.safe_load(_REASONS.read_text(encoding="utf-8")) or {}
    results = {name: json.loads(path.read_text()) for name in PACKAGES if (path := _WORK / f"{name}.json").exists()}
    rows, lines = [], []
    for name, found in results.items():
        killed, tried = found["killed"], found["tried"]
        ends = binomtest(killed, tried).proportion_ci(method="wilson")
        shares = (f"{100 * killed / tried:.0f}", f"{100 * ends.low:.0f} to {100 * ends.high:.0f}")
        cells = (name, found["mutants"], tried, killed, *shares, found["seconds"], found["seed"])
        rows.append(f"| {' | '.join(map(str, cells))} |")
        for line, what, how in found["survivors"]:
            lines.append(f"- {line}, {what} ({how}): {reasons.get(what, 'not looked at')}")
    return "\n".join([_WORDS, *rows, "", "Survivors (line, module, function: change):", "", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
