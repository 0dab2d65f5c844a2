"""Scores made from stored records as rows of text: numbers down, models across."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.evaluation.score import Number, Scores
from taskarith.report.tables import TableRows

__all__ = ["score_remarks", "score_tables"]

_NONE = "-"

_TITLES = {
    "loss": "loss",
    "perplexity": "perplexity",
    "accuracy": "top-1 accuracy",
    "exact_memorisation": "exact memorisation",
    "extraction_strength": "extraction strength",
    "rouge_l_f1": "ROUGE-L F1",
    "rouge_l_recall": "ROUGE-L recall",
    "rouge_l_f1_stemmed": "ROUGE-L F1, stemmed",
    "rouge_l_recall_stemmed": "ROUGE-L recall, stemmed",
    "verbatim": "verbatim",
    "probability": "probability",
    "truth_ratio": "truth ratio",
    "model_utility": "model utility (TOFU)",
    "forget_quality": "forget quality (TOFU, KS p)",
    "forget_distance": "forget distance (TOFU, KS D)",
    "verbmem": "VerbMem (MUSE)",
    "knowmem_forget": "KnowMem on forget (MUSE)",
    "knowmem_retain": "KnowMem on retain (MUSE)",
    "membership": "membership inference",
    "auc_loss": "AUC of loss",
    "auc_zlib": "AUC of loss / zlib",
    "auc_min_20": "AUC of Min-20%",
    "auc_min_40": "AUC of Min-40%",
    "auc_min_20_plus": "AUC of Min-20%++",
    "auc_min_40_plus": "AUC of Min-40%++",
    "auc_reference": "AUC of loss / retain model's",
    "privleak": "PrivLeak (MUSE)",
}
_PLACES = {
    "model_utility": 6,
    "forget_distance": 4,
    "verbmem": 2,
    "knowmem_forget": 2,
    "knowmem_retain": 2,
    "privleak": 2,
}


def score_tables(scores: Scores) -> list[TableRows]:
    """Return a table for each text, and one of the numbers that need several texts; what is missing is a dash."""
    tables = []
    for text in scores.texts:
        by_model = {model: scores.by_text[model].get(text, {}) for model in scores.models}
        tables.append(_table(text, by_model, ()))
    missing = [name for model in scores.models for name in scores.missing[model]]
    overall = _table("over all texts", scores.overall, missing)
    return [*tables, overall] if overall.rows else tables


def score_remarks(scores: Scores) -> list[str]:
    """Return a sentence for each number that is missing, and for all that does not compare."""
    needs: dict[str, list[str]] = {}
    for model in scores.models:
        for name, what in scores.missing[model].items():
            titles = needs.setdefault(what, [])
            titles += [_title(name)] if _title(name) not in titles else []
    return [*(f"{', '.join(titles)}: needs {what}" for what, titles in needs.items()), *scores.remarks]


def _table(title: str, by_model: Mapping[str, Mapping[str, Number]], missing: Sequence[str]) -> TableRows:
    found = dict.fromkeys([name for numbers in by_model.values() for name in numbers] + list(missing))
    order = list(_TITLES)
    names = sorted(found, key=lambda name: order.index(name) if name in _TITLES else len(order))
    rows = [(_title(name), *(_cell(name, numbers.get(name)) for numbers in by_model.values())) for name in names]
    return TableRows(title, ("", *by_model), tuple(rows))


def _title(name: str) -> str:
    return _TITLES.get(name, name)


def _cell(name: str, number: Number | None) -> str:
    if number is None:
        return _NONE
    if isinstance(number, Estimate):
        if number.low is None or number.high is None:
            return _write(name, number.value)
        return f"{_write(name, number.value)} [{_write(name, number.low)}, {_write(name, number.high)}]"
    if number.spread is None:
        return _write(name, number.value)
    return f"{_write(name, number.value)} ± {_write(name, number.spread)}"


def _write(name: str, value: float) -> str:
    if name == "forget_quality":
        return f"{value:.3e}"
    if math.isinf(value) or abs(value) >= 1e5:
        return f"{value:.1e}"
    return f"{value:.{_PLACES.get(name, 3)}f}"
