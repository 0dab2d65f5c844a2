"""Edit language models by task arithmetic: finetune, extract, apply, evaluate.

The verbs are imported when they are first used, so that ``import taskarith`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskarith.attacks.attack import attack
    from taskarith.attacks.result import AttackResult
    from taskarith.edit.algebra import Model, TaskVector
    from taskarith.edit.apply import ApplyResult, apply
    from taskarith.edit.combine import CombineResult, combine
    from taskarith.edit.in_memory import InMemoryEdit
    from taskarith.edit.undo import UndoResult, undo
    from taskarith.errors import TaskarithError
    from taskarith.evaluation.evaluate import evaluate
    from taskarith.evaluation.measurement import Measurement
    from taskarith.evaluation.run import Evaluation
    from taskarith.evaluation.score import Scores, score
    from taskarith.hub.push import PushResult, push
    from taskarith.inspection.diff import Differences, diff
    from taskarith.inspection.inspect import Inspection, inspect
    from taskarith.inspection.verify import Verification, verify
    from taskarith.merging.methods import Method, parse_method
    from taskarith.models.runtime import Runtime
    from taskarith.relations.importance import ImportanceResult, importance
    from taskarith.relations.inputs import TestInputs
    from taskarith.relations.out_of_domain import OutOfDomain, out_of_domain
    from taskarith.relations.relate import Relation, relate
    from taskarith.sweeps.sweep import Sweep, sweep
    from taskarith.training.finetune import FinetuneResult, finetune
    from taskarith.training.settings import TrainingSettings
    from taskarith.unlearning.clean import CleanResult, clean
    from taskarith.unlearning.result import UnlearnResult
    from taskarith.unlearning.unlearn import unlearn
    from taskarith.vectors.extract import ExtractResult, extract
    from taskarith.vectors.low_rank import LowRankResult, extract_low_rank

__all__ = [
    "ApplyResult",
    "AttackResult",
    "CleanResult",
    "CombineResult",
    "Differences",
    "Evaluation",
    "ExtractResult",
    "FinetuneResult",
    "ImportanceResult",
    "InMemoryEdit",
    "Inspection",
    "LowRankResult",
    "Measurement",
    "Method",
    "Model",
    "OutOfDomain",
    "PushResult",
    "Relation",
    "Runtime",
    "Scores",
    "Sweep",
    "TaskVector",
    "TaskarithError",
    "TestInputs",
    "TrainingSettings",
    "UndoResult",
    "UnlearnResult",
    "Verification",
    "apply",
    "attack",
    "clean",
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
    "push",
    "relate",
    "score",
    "sweep",
    "undo",
    "unlearn",
    "verify",
]

_HOMES = {
    "ApplyResult": "taskarith.edit.apply",
    "AttackResult": "taskarith.attacks.result",
    "CleanResult": "taskarith.unlearning.clean",
    "CombineResult": "taskarith.edit.combine",
    "Differences": "taskarith.inspection.diff",
    "Evaluation": "taskarith.evaluation.run",
    "ExtractResult": "taskarith.vectors.extract",
    "FinetuneResult": "taskarith.training.finetune",
    "ImportanceResult": "taskarith.relations.importance",
    "InMemoryEdit": "taskarith.edit.in_memory",
    "Inspection": "taskarith.inspection.inspect",
    "PushResult": "taskarith.hub.push",
    "push": "taskarith.hub.push",
    "OutOfDomain": "taskarith.relations.out_of_domain",
    "Relation": "taskarith.relations.relate",
    "Scores": "taskarith.evaluation.score",
    "Sweep": "taskarith.sweeps.sweep",
    "Measurement": "taskarith.evaluation.measurement",
    "Runtime": "taskarith.models.runtime",
    "TestInputs": "taskarith.relations.inputs",
    "TrainingSettings": "taskarith.training.settings",
    "Model": "taskarith.edit.algebra",
    "TaskVector": "taskarith.edit.algebra",
    "Method": "taskarith.merging.methods",
    "LowRankResult": "taskarith.vectors.low_rank",
    "TaskarithError": "taskarith.errors",
    "UndoResult": "taskarith.edit.undo",
    "UnlearnResult": "taskarith.unlearning.result",
    "Verification": "taskarith.inspection.verify",
    "apply": "taskarith.edit.apply",
    "attack": "taskarith.attacks.attack",
    "clean": "taskarith.unlearning.clean",
    "combine": "taskarith.edit.combine",
    "diff": "taskarith.inspection.diff",
    "evaluate": "taskarith.evaluation.evaluate",
    "extract": "taskarith.vectors.extract",
    "extract_low_rank": "taskarith.vectors.low_rank",
    "finetune": "taskarith.training.finetune",
    "importance": "taskarith.relations.importance",
    "inspect": "taskarith.inspection.inspect",
    "out_of_domain": "taskarith.relations.out_of_domain",
    "relate": "taskarith.relations.relate",
    "score": "taskarith.evaluation.score",
    "parse_method": "taskarith.merging.methods",
    "sweep": "taskarith.sweeps.sweep",
    "undo": "taskarith.edit.undo",
    "unlearn": "taskarith.unlearning.unlearn",
    "verify": "taskarith.inspection.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taskarith' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
