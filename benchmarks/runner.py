"""Runs the contenders, one after the other, and collects what they took."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import models
from benchmarks.edits import EDITS, Edit, make_edit, weights
from benchmarks.kept import least_kept
from benchmarks.measure import Failure, Measure, as_installed, can_drop_caches, drop_caches, measure, warm_up
from benchmarks.oracle import count_differences
from benchmarks.peers import BEFORE, CONTENDERS, COPY, EXACT, OURS, command
from benchmarks.results import CurvePoint, EditResult, Report

__all__ = ["Bench"]

_MOST_REAL = 3e9
"""Parameters of the largest model that is written in full."""


@dataclass
class Bench:
    """One benchmark.

    :param work: Folder for everything that is written.
    :param hidden: Width of the models.
    :param mergekit_python: Interpreter that has mergekit; None if there is none.
    :param report: Takes the results.
    :param target: File of the report; written anew after every part, so that an interruption loses little.
    :param is_cold_too: Whether a round with a cold cache follows the warm ones.
    :param before: A checkout of an earlier commit, which takes part; None without one.
    """

    work: Path
    hidden: int
    mergekit_python: str | None
    report: Report
    target: Path
    is_cold_too: bool = True
    before: Path | None = None

    def compile_kernels(self) -> None:
        """Compile and cache the kernels, run edits on a small model, and note how long compiling takes."""
        shutil.rmtree(self.work / "cache", ignore_errors=True)
        code = "from taskarith.arithmetic.kernels.compile import GROUPS, load_kernels; load_kernels(*GROUPS)"
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], env=as_installed() | self._environment(OURS), check=True)
        seconds = time.perf_counter() - start
        self.report.facts.append(
            f"The first run on a machine compiles the kernels in the background, for {seconds:.0f} s; the tables are "
            "of later runs"
        )
        size = models.hidden_size(0)
        folders = models.write_models(self.work / "small", size, 2)
        vectors = self._store_vectors(folders)
        for contender in (OURS, BEFORE) if self.before else (OURS,):
            for name, others in (("apply", ()), ("extract", ()), ("vectors", vectors)):
                self._run(contender, make_edit(name, folders, others))
        self._clean()

    def compare(self, name: str, folders: Sequence[Path], rounds: int) -> None:
        """Measure one edit by all contenders in turn, warm and cold, and compare their results with the oracle.

        :param name: Key in ``EDITS``.
        :param folders: The base and two fine-tunes.
        :param rounds: How often with a warm cache.
        """
        edit = make_edit(name, folders, self._others(name, folders))
        result = EditResult(EDITS[name], self.report.parameters)
        self.report.edits.append(result)
        able = self._able(edit)
        if edit.kind == "lora":
            self._run(OURS, edit)  # asks transformers once for the names of this model's weights, and keeps the answer
        for number in range(rounds):
            for contender in tuple(able):
                found = self._run(contender, edit)
                if found is None:
                    able.remove(contender)
                else:
                    result.warm.setdefault(contender, []).append(found)
                if contender == COPY or number < rounds - 1:
                    self._clean(contender)
        if edit.has_oracle:
            _say(f"{name}: comparing with the oracle")
            result.differing = count_differences(edit, {one: self._output(one) for one in able if one != COPY})
        if name == "rank":
            _say(f"{name}: comparing with the best possible")
            result.kept = least_kept(edit, {one: self._output(one) for one in able if one != COPY})
        self._clean()
        for contender in able if self.is_cold_too and can_drop_caches() else ():
            found = self._run(contender, edit, is_cold=True)
            if found is not None:
                result.cold[contender] = found
            self._clean(contender)
        shutil.rmtree(self.work / "vectors", ignore_errors=True)
        self._save()

    def _able(self, edit: Edit) -> list[str]:
        """Return the contenders that are there and may have a command for an edit."""
        absent = set() if self.mergekit_python else {one for one in CONTENDERS if one.startswith("mergekit")}
        absent |= set() if self.before else {BEFORE}
        absent |= set() if edit.kind == "stored" else {EXACT}
        return [one for one in CONTENDERS if one not in absent]

    def measure_sizes(self, sizes: Sequence[int]) -> None:
        """Measure taskarith alone on models of several widths; large ones are sparse files of zeros."""
        for number, hidden in enumerate(sizes):
            folder, parameters = self.work / f"size{number}", models.parameter_count(hidden)
            is_sparse = parameters > _MOST_REAL
            _say(f"writing {'sparse ' if is_sparse else ''}models of {parameters / 1e9:.3g} B parameters")
            write = models.write_sparse if is_sparse else models.write_models
            base, tuned = write(folder, hidden, 1)
            for title, kind in (("apply, one fine-tuned folder", "edit"), ("extract to float32", "extract")):
                found = self._run(OURS, Edit(title, kind, base, (tuned,), (1.0,)))
                if found is not None:
                    self.report.curve.append(CurvePoint(parameters, title + " (zeros)" * is_sparse, found))
                self._clean()
            shutil.rmtree(folder)
        self._save()

    def _environment(self, contender: str) -> dict[str, str]:
        common = {"TASKARITH_CACHE": str(self.work / "cache"), "HF_HUB_OFFLINE": "1"}
        return common | {"PYTHONPATH": str(self.before)} if contender == BEFORE else common

    def _run(self, contender: str, edit: Edit, *, is_cold: bool = False) -> Measure | None:
        """Let one contender carry out one edit; None if it cannot or fails, which is noted."""
        output = self._output(contender)
        output.parent.mkdir(exist_ok=True)
        self._clean(contender)
        line = command(contender, edit, output, self.mergekit_python or "")
        if line is None:
            self._remark(f"{edit.name}: {contender} has no command that gives this result")
            return None
        warm_up(edit.inputs)
        if is_cold:  # read before, so that a cache outside this system, if there is one, serves all contenders alike
            drop_caches()
        try:
            found = measure(line, output, self.work / "log", self._environment(contender))
        except Failure as failure:
            self._remark(f"{edit.name}: {contender} failed: {failure}")
            return None
        times = f"{found.seconds:.2f} s, durable {found.durable:.2f} s, {found.anonymous / 1e6:.0f} MB"
        _say(f"{edit.name}{', cold' if is_cold else ''}: {contender}: {times}")
        return found

    def _others(self, name: str, folders: Sequence[Path]) -> list[Path]:
        """Make the operands that are no models."""
        if name == "vectors":
            return self._store_vectors(folders)
        if name in {"stored", "stored-whole"}:
            return [self._store(kind, folders) for kind in ("extract", "exact")]
        return [models.write_adapter(self.work / "vectors" / "lora", folders[0], self.hidden)] if name == "lora" else []

    def _store_vectors(self, folders: Sequence[Path]) -> list[Path]:
        """Extract the vectors of two fine-tunes, each into a folder of its own that mergekit takes for a model."""
        base, *tuned = folders
        vectors = []
        for model in tuned:
            vector = self._store("extract", (base, model)).parent
            shutil.rmtree(vector.with_name(model.name), ignore_errors=True)
            vectors.append(vector.rename(vector.with_name(model.name)))
            shutil.copyfile(base / "config.json", vectors[-1] / "config.json")
        return vectors

    def _store(self, kind: str, folders: Sequence[Path]) -> Path:
        """Extract the vector of the first fine-tune in one form; return its file."""
        vector = self.work / "vectors" / kind
        self._run(OURS, Edit(kind, kind, folders[0], (folders[1],), (1.0,)))
        shutil.rmtree(vector, ignore_errors=True)
        vector.parent.mkdir(exist_ok=True)
        return weights(self._output(OURS).rename(vector))

    def _output(self, contender: str) -> Path:
        return self.work / "outputs" / contender.replace(", ", "-").replace(" ", "-")

    def _clean(self, *contenders: str) -> None:
        """Remove the results of some contenders, or of all."""
        for contender in contenders or CONTENDERS:
            for place in (self._output(contender), self._output(contender).with_suffix(".cache")):
                shutil.rmtree(place, ignore_errors=True)

    def _remark(self, text: str) -> None:
        if text not in self.report.remarks:
            self.report.remarks.append(text)
            _say(text)

    def _save(self) -> None:
        self.target.write_text(self.report.text(), encoding="utf-8")


def _say(text: str) -> None:
    print(text, flush=True)
