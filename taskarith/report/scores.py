"""Scores as tables: a compact and a detailed table of each text, then one of the numbers over several texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from taskarith.evaluation.metrics.intervals import Estimate, Spread
from taskarith.evaluation.numbers import BESIDE, LENS
from taskarith.evaluation.score import Number, Scores
from taskarith.report.tables import TableRows, fitted, short_names

__all__ = ["TITLES", "metric_title", "number_text", "score_remarks", "score_tables", "write_number"]

_NONE = "-"

_ATTACKS = {
    "loss": "loss",
    "zlib": "loss / zlib",
    "min_20": "Min-20%",
    "min_40": "Min-40%",
    "min_20_plus": "Min-20%++",
    "min_40_plus": "Min-40%++",
    "reference": "loss / retain model's",
    "gradient": "gradient norm",
}

TITLES = {
    "loss": "loss",
    "perplexity": "perplexity",
    "accuracy": "top-1",
    "exact_memorisation": "exact memorisation",
    "extraction_strength": "extraction strength",
    "rouge_l_f1": "ROUGE-L F1",
    "rouge_l_recall": "recall",
    "rouge_l_f1_stemmed": "ROUGE-L F1, stemmed",
    "rouge_l_recall_stemmed": "ROUGE-L recall, stemmed",
    "verbatim": "verbatim",
    "probability": "probability",
    "truth_ratio": "truth ratio",
    "truth_probability": "p / (p + p wrong)",
    "fluency": "fluency",
    "model_utility": "model utility (TOFU)",
    "forget_quality": "forget quality (TOFU, KS p)",
    "forget_distance": "forget distance (TOFU, KS D)",
    "verbmem": "VerbMem (MUSE)",
    "knowmem_forget": "KnowMem on forget (MUSE)",
    "knowmem_retain": "KnowMem on retain (MUSE)",
    "membership": "membership inference",
    **{f"auc_{name}": f"AUC of {title}" for name, title in _ATTACKS.items()},
    **{
        f"tpr_at_{rate}_{name}": f"TPR at {rate}% FPR of {title}"
        for rate in ("0.1", "1", "5")
        for name, title in _ATTACKS.items()
    },
    "tpr": "TPR at low FPR",
    "privleak": "PrivLeak (MUSE)",
    "normalised_accuracy": "normalised accuracy",
    "lens": "loss at each layer",
}
"""Headings of numbers, in the order of the tables."""

_PLACES = {
    "model_utility": 6,
    "forget_distance": 4,
    "verbmem": 2,
    "knowmem_forget": 2,
    "knowmem_retain": 2,
    "privleak": 2,
}


_COMPACT = ("loss", "perplexity", "accuracy", "rouge_l_f1", "rouge_l_recall", "verbatim", "fluency")
_WITH_INTERVAL = {"loss", "rouge_l_f1"}
"""Numbers of the compact table shown with their interval; the other intervals are in the JSON."""


def score_tables(scores: Scores) -> list[TableRows]:
    """Return the tables of all texts, with a row per model, and one of the overall numbers, with a column per model.

    A dash marks a number that a model lacks and another has; ``score_remarks`` names what all lack. Tables are at
    most 100 characters wide where their cells allow it.
    """
    names = short_names(scores.models)
    tables = []
    for text in scores.texts:
        rows = {names[model]: scores.by_text[model].get(text, {}) for model in scores.models}
        tables += _text_tables(text, rows)
    return tables + _overall_tables({names[model]: scores.overall[model] for model in scores.models})


def score_remarks(scores: Scores) -> list[str]:
    """Return a sentence on each missing number, then the remarks on what is not comparable."""
    needs: dict[str, list[str]] = {}
    for model in scores.models:
        for name, reason in scores.missing[model].items():
            titles = needs.setdefault(reason, [])
            titles += [metric_title(name)] if metric_title(name) not in titles else []
    return [*(f"missing: {', '.join(titles)}: {reason}" for reason, titles in needs.items()), *scores.remarks]


def _text_tables(text: str, by_model: Mapping[str, Mapping[str, Number]]) -> list[TableRows]:
    """Return the compact table of a text, with few intervals, and a table of its other numbers, with all intervals."""
    names = _ordered(by_model)
    compact = [name for name in _COMPACT if name in names]
    hidden = {"rouge_l_f1_stemmed"} if "probability" in names else {"rouge_l_f1_stemmed", "rouge_l_recall_stemmed"}
    rest = [
        name for name in names if name not in _COMPACT and name not in hidden and not name.startswith(LENS)
    ]  # recall of stems is shown for TOFU only
    tables = []
    if compact:
        cells = [
            (model, *(number_text(name, numbers.get(name), plain=name not in _WITH_INTERVAL) for name in compact))
            for model, numbers in by_model.items()
        ]
        title = f"{text}: {_counts(by_model)}"
        tables += fitted(TableRows(title, ("model", *map(metric_title, compact)), tuple(cells)))
    if rest:
        title = f"{text}: memorisation" if compact else f"{text}: {_counts(by_model)}"
        columns = _columns(rest, by_model)
        heads = [metric_title(names[0]) for names in columns]
        cells = [(model, *(_beside(names, numbers) for names in columns)) for model, numbers in by_model.items()]
        references = {_model(name.removeprefix(start)) for name in rest for start in BESIDE if name.startswith(start)}
        if len(references) == 1:  # a single reference goes into the title, not into every heading
            reference = references.pop()
            title += f"; KL and agreement against {short_names([reference])[reference]}"
            heads = [head.removesuffix(f" from {reference}").removesuffix(f" with {reference}") for head in heads]
        tables += fitted(TableRows(title, ("model", *heads), tuple(cells)))
    return tables


def _columns(names: Sequence[str], by_model: Mapping[str, Mapping[str, Number]]) -> list[list[str]]:
    """Group numbers with the same title, as those beside references of several sources, of which each row has one."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(metric_title(name), []).append(name)
    is_shared = {
        title: all(sum(name in numbers for name in group) <= 1 for numbers in by_model.values())
        for title, group in groups.items()
    }
    return [
        one for title, group in groups.items() for one in ([group] if is_shared[title] else [[name] for name in group])
    ]


def _beside(names: Sequence[str], numbers: Mapping[str, Number]) -> str:
    name = next((name for name in names if name in numbers), names[0])
    return number_text(name, numbers.get(name), plain=name.startswith(BESIDE[1]))


def _overall_tables(by_model: Mapping[str, Mapping[str, Number]]) -> list[TableRows]:
    names = _ordered(by_model)
    rows = [
        (metric_title(name), *(number_text(name, numbers.get(name)) for numbers in by_model.values())) for name in names
    ]
    return fitted(TableRows("over all texts", ("", *by_model), tuple(rows))) if rows else []


def _ordered(by_model: Mapping[str, Mapping[str, Number]]) -> list[str]:
    """Return the names of all numbers in the order of the titles, unknown ones last."""
    names = dict.fromkeys(name for numbers in by_model.values() for name in numbers)
    order = list(TITLES)
    return sorted(names, key=lambda name: order.index(name) if name in TITLES else len(order))


def _counts(by_model: Mapping[str, Mapping[str, Number]]) -> str:
    """Return how many samples, prompts and questions the numbers of a text are based on."""
    parts = []
    for name, unit in (("loss", "sample"), ("rouge_l_f1", "prompt"), ("probability", "question")):
        counts = {n.n for numbers in by_model.values() if isinstance(n := numbers.get(name), Estimate)}
        parts += [f"{max(counts):,} {unit}{'s' if max(counts) > 1 else ''}"] if counts else []
    seeds = {n.seeds for numbers in by_model.values() for n in numbers.values() if isinstance(n, Spread)}
    return ", ".join(parts) or f"mean ± standard deviation over {max(seeds, default=0)} seeds"


def metric_title(name: str) -> str:
    """Return a metric as the heading of a table."""
    if name in TITLES:
        return TITLES[name]
    for start in BESIDE:
        if name.startswith(start):
            return start.replace("kl", "KL") + _model(name.removeprefix(start))
    if name.startswith(LENS):
        return f"loss at layer {name.removeprefix(LENS)}"
    if name.startswith("leak_at_"):
        return f"leak@{name.removeprefix('leak_at_')}"
    number, of, text = name.partition(" of ")
    return metric_title(number) + of + text if of else name


def _model(name: str) -> str:
    """Return a model's name without its folders."""
    return Path(name).name or name


def number_text(name: str, number: Number | None, *, plain: bool = False) -> str:
    """Return a number as a cell: with its interval, unless plain, or with its spread over seeds."""
    if number is None:
        return _NONE
    if isinstance(number, Estimate):
        if plain or number.low is None or number.high is None:
            return write_number(name, number.value)
        return (
            f"{write_number(name, number.value)} [{write_number(name, number.low)}, {write_number(name, number.high)}]"
        )
    if number.spread is None:
        return write_number(name, number.value)
    return f"{write_number(name, number.value)} ± {write_number(name, number.spread)}"


def write_number(name: str, value: float) -> str:
    """Return a number with the digits that its metric has."""
    if name == "forget_quality":
        return f"{value:.3e}"
    if math.isinf(value) or abs(value) >= 1e5:
        return f"{value:.1e}"
    return f"{value:.{_PLACES.get(name, 3)}f}"
