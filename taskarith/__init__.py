"""Edit language models by task arithmetic: finetune, extract, apply, evaluate.

The verbs are imported when they are first used, so that ``import taskarith`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskarith.attacks.attack import AttackResult, attack
    from taskarith.coefficients.importance import ImportanceResult, importance
    from taskarith.coefficients.out_of_domain import OutOfDomain, out_of_domain
    from taskarith.coefficients.relate import Relation, relate
    from taskarith.coefficients.sweep import Sweep, sweep
    from taskarith.edit.apply import ApplyResult, apply
    from taskarith.edit.combine import CombineResult, combine
    from taskarith.edit.memory import InMemoryEdit
    from taskarith.edit.method import Method, parse_method
    from taskarith.edit.undo import UndoResult, undo
    from taskarith.edit.verify import Verification, verify
    from taskarith.errors import TaskarithError
    from taskarith.evaluation.evaluate import evaluate
    from taskarith.evaluation.rows import Evaluation
    from taskarith.evaluation.score import Scores, score
    from taskarith.training.finetune import FinetuneResult, finetune
    from taskarith.vectors.diff import Differences, diff
    from taskarith.vectors.extract import ExtractResult, extract
    from taskarith.vectors.inspect import Inspection, inspect
    from taskarith.vectors.lowrank import LowRankResult, extract_low_rank

__all__ = [
    "ApplyResult",
    "AttackResult",
    "CombineResult",
    "Differences",
    "Evaluation",
    "ExtractResult",
    "FinetuneResult",
    "ImportanceResult",
    "InMemoryEdit",
    "Inspection",
    "LowRankResult",
    "Method",
    "OutOfDomain",
    "Relation",
    "Scores",
    "Sweep",
    "TaskarithError",
    "UndoResult",
    "Verification",
    "apply",
    "attack",
    "combine",
    "diff",
    "evaluate",
    "extract",
    "extract_low_rank",
    "finetune",
    "importance",
    "inspect",
    "out_of_domain",
    "parse_method",
    "relate",
    "score",
    "sweep",
    "undo",
    "verify",
]

_HOMES = {
    "ApplyResult": "taskarith.edit.apply",
    "AttackResult": "taskarith.attacks.attack",
    "CombineResult": "taskarith.edit.combine",
    "Differences": "taskarith.vectors.diff",
    "Evaluation": "taskarith.evaluation.rows",
    "ExtractResult": "taskarith.vectors.extract",
    "FinetuneResult": "taskarith.training.finetune",
    "ImportanceResult": "taskarith.coefficients.importance",
    "InMemoryEdit": "taskarith.edit.memory",
    "Inspection": "taskarith.vectors.inspect",
    "OutOfDomain": "taskarith.coefficients.out_of_domain",
    "Relation": "taskarith.coefficients.relate",
    "Scores": "taskarith.evaluation.score",
    "Sweep": "taskarith.coefficients.sweep",
    "Method": "taskarith.edit.method",
    "LowRankResult": "taskarith.vectors.lowrank",
    "TaskarithError": "taskarith.errors",
    "UndoResult": "taskarith.edit.undo",
    "Verification": "taskarith.edit.verify",
    "apply": "taskarith.edit.apply",
    "attack": "taskarith.attacks.attack",
    "combine": "taskarith.edit.combine",
    "diff": "taskarith.vectors.diff",
    "evaluate": "taskarith.evaluation.evaluate",
    "extract": "taskarith.vectors.extract",
    "extract_low_rank": "taskarith.vectors.lowrank",
    "finetune": "taskarith.training.finetune",
    "importance": "taskarith.coefficients.importance",
    "inspect": "taskarith.vectors.inspect",
    "out_of_domain": "taskarith.coefficients.out_of_domain",
    "relate": "taskarith.coefficients.relate",
    "score": "taskarith.evaluation.score",
    "parse_method": "taskarith.edit.method",
    "sweep": "taskarith.coefficients.sweep",
    "undo": "taskarith.edit.undo",
    "verify": "taskarith.edit.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskarith' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
