"""The steps in their order, and what became of each on one architecture."""

from __future__ import annotations

import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.architectures import adapters, edits, evaluation, training
from benchmarks.architectures.case import Case, ImpossibleError, WrongError, make_case
from taskarith.errors import TaskarithError

__all__ = ["STEPS", "Outcome", "Result", "run"]

STEPS: dict[str, Callable[[Case], None]] = {
    "bits": edits.restores,
    "negate": edits.negates,
    "load": edits.loads,
    "verify": edits.verifies,
    "adapter": adapters.adds_adapter,
    "head": adapters.adds_head_adapter,
    "embedding": adapters.adds_embedding_adapter,
    "combine": adapters.combines,
    "rank-peft": adapters.peft_restores,
    "rank-own": adapters.factors_restore,
    "train": training.trains,
    "lora": training.applies_own_adapter,
    "resume": training.resumes,
    "resume-lora": training.resumes_lora,
    "loss": evaluation.measures_loss,
    "memory": evaluation.edits_in_memory,
    "batch": evaluation.generates_alike,
}


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    :param kind: right, refused, wrong, or impossible: transformers or PEFT cannot do what it compares with.
    :param reason: Why, in one line; empty if right.
    """

    kind: str
    reason: str = ""


@dataclass(frozen=True)
class Result:
    """What became of an architecture.

    :param name: Of the architecture.
    :param steps: By step; empty if it was not built.
    :param unbuilt: Why it was not built.
    :param seconds: How long it took.
    """

    name: str
    steps: dict[str, Outcome]
    unbuilt: str = ""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Result:
        """Read them again."""
        return cls(**values | {"steps": {name: Outcome(**outcome) for name, outcome in values["steps"].items()}})


def run(name: str, steps: Collection[str] = tuple(STEPS)) -> Result:
    """Build an architecture and take it through steps.

    :param name: One of ``population``.
    :param steps: Some of ``STEPS``; a step makes for itself what it needs of others.
    """
    start = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="architecture-"))
    try:
        try:
            case = make_case(name, folder)
        except Exception as error:
            return Result(name, {}, _line(error, folder))
        outcomes = {step: _outcome(STEPS[step], case) for step in STEPS if step in steps}
        return Result(name, outcomes, seconds=round(time.perf_counter() - start, 1))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outcome(step: Callable[[Case], None], case: Case) -> Outcome:
    try:
        step(case)
    except ImpossibleError as error:
        return Outcome("impossible", _line(error, case.folder))
    except TaskarithError as error:
        return Outcome("refused", _line(error, case.folder))
    except WrongError as error:
        return Outcome("wrong", _line(error, case.folder))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        return Outcome("wrong", f"{type(error).__name__} in {where}: {_line(error, case.folder)}")
    return Outcome("right")


def _line(error: Exception, folder: Path) -> str:
    text = error.message if isinstance(error, TaskarithError) else " ".join(str(error).split()) or type(error).__name__
    return text.replace(f"{folder}/", "")[:300]
