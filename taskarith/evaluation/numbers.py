"""From one model's records to its numbers: which records each number needs, and why it is missing without them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from taskarith.errors import DataError, name_some
from taskarith.evaluation.gaps import Found, Missing, Numbers
from taskarith.evaluation.leakage import FORGET, NEEDS_RETAIN, membership_numbers
from taskarith.evaluation.metrics import qa
from taskarith.evaluation.metrics.fluency import ngram_entropy
from taskarith.evaluation.metrics.intervals import RATE, Estimate, Floats, estimate, mean, ratio
from taskarith.evaluation.metrics.rouge import rouge_l
from taskarith.evaluation.metrics.sampling import budgets, leak_at_k
from taskarith.evaluation.metrics.text import exact_memorisation, extraction_strength, perplexity, verbmem
from taskarith.evaluation.read_records import RecordTable, check_same_samples
from taskarith.evaluation.records import Record, column, text_tokens

__all__ = ["BESIDE", "CHOICES", "FORGET", "KNOWMEM", "UTILITY", "across_texts", "of_text"]

UTILITY = ("retain", "real_authors", "world_facts")
"""Names of the texts that TOFU's model utility is made from."""
CHOICES = ("real_authors", "world_facts")
"""Those of them whose probability is normalised over the wrong answers."""
BESIDE = ("kl from ", "agreement with ")
"""Beginnings of names that end with that of the model which a number compares with."""
KNOWMEM = ("knowmem_forget", "knowmem_retain")
"""Texts of MUSE whose continuations are answers."""
_MUSE = {"verbmem": verbmem, **dict.fromkeys(KNOWMEM, qa.knowmem)}
"""MUSE's texts, and what each of their continuations counts."""

NEEDS_DRAWS = "needs continuations that were drawn: eval --draws N"

_POSITIVE = (0.0, math.inf)
_NORMAL = 1.959963984540054  # standard errors on either side of a 95% interval


def of_text(sheet: RecordTable, text: str) -> tuple[Numbers, Missing]:
    """Return all numbers that the records of one text give, and why others are missing."""
    found = Found()
    _loss_numbers(found, sheet.of("loss", text))
    _continuation_numbers(found, sheet.of("continuation", text))
    _sampled_numbers(found, sheet, text)
    if answers := sheet.of("answer", text):
        found.add("probability", lambda: mean(_probabilities(answers, text), RATE))
        kind = qa.forget_truth if text == FORGET else qa.utility_truth
        found.add("truth_ratio", lambda: mean(kind(_truth_ratios(answers)), RATE))
        found.add("truth_probability", lambda: mean(qa.truth_probability(_truth_ratios(answers)), RATE))
    _task_numbers(found, sheet.of("task", text), sheet.of("task_score", text))
    _divergence_numbers(found, sheet.of("divergence", text))
    return found.numbers, {f"{name} of {text}": why for name, why in found.missing.items()}


def across_texts(sheet: RecordTable, retain: RecordTable | None) -> tuple[Numbers, Missing]:
    """Return the numbers that need several texts or another model, and why others are missing.

    A number is looked for where its forget set is there: a text named ``forget`` with answers for TOFU, with losses for
    membership inference. Texts of MUSE's names give its numbers.

    :param retain: Records of a model that never saw the forget set.
    """
    found = Found()
    for name, number in _MUSE.items():
        if records := sheet.of("continuation", name):
            pairs = [(record["reference"], record["continuation"]) for record in records.values()]
            found.add(name, lambda number=number, pairs=pairs: mean([number(*pair) for pair in pairs], (0.0, 100.0)))
    _tofu(found, sheet, retain)
    membership_numbers(found, sheet, retain)
    return found.numbers, found.missing


def _loss_numbers(found: Found, records: Mapping[str, Record]) -> None:
    if not records:
        return
    tokens, correct = column(records, "tokens"), column(records, "correct")
    loss = found.add("loss", lambda: ratio(column(records, "nll"), tokens, _POSITIVE))
    if loss is not None:
        low, high = (None if end is None else perplexity(end) for end in (loss.low, loss.high))
        found.numbers["perplexity"] = Estimate(perplexity(loss.value), low, high, loss.n)
    found.add("accuracy", lambda: ratio(correct, tokens, RATE))
    names = {"exact_memorisation": _share_known, "extraction_strength": extraction_strength}
    if lacking := [key for key in ("hits", "end_tokens") if any(key not in record for record in records.values())]:
        found.missing |= dict.fromkeys(names, f"needs {' and '.join(lacking)} in every loss record: evaluate again")
        return
    hits = [[hit == "1" for hit in text_tokens(record, record["hits"])] for record in records.values()]
    for name, number in names.items():
        found.add(name, lambda number=number: mean([number(some) for some in hits if some], RATE))


def _share_known(hits: list[bool]) -> float:
    return float(exact_memorisation([sum(hits)], [len(hits)])[0])


def _continuation_numbers(found: Found, records: Mapping[str, Record]) -> None:
    if not records:
        return
    pairs = [(record["reference"], record["continuation"]) for record in records.values()]
    plain, stemmed = ([rouge_l(*pair, stem=stem) for pair in pairs] for stem in (False, True))
    columns = {
        "rouge_l_f1": [score.f1 for score in plain],
        "rouge_l_recall": [score.recall for score in plain],
        "rouge_l_f1_stemmed": [score.f1 for score in stemmed],
        "rouge_l_recall_stemmed": [score.recall for score in stemmed],
        "verbatim": [float(truth.split() == guess.split()) for truth, guess in pairs],
    }
    for name, values in columns.items():
        found.add(name, lambda values=values: mean(values, RATE))
    found.add("fluency", lambda: mean([ngram_entropy(guess) for _, guess in pairs], _POSITIVE))


def _sampled_numbers(found: Found, sheet: RecordTable, text: str) -> None:
    """Add what the best of k drawn continuations scores; of the forget set it is named where eval has drawn none."""
    samples = sheet.of("sampled", text)
    if not samples:
        if text == FORGET and sheet.of("continuation", text) and sheet.of("loss", text):
            found.missing["leak_at_k"] = NEEDS_DRAWS
        return
    scores = [
        [rouge_l(record["reference"], drawn, stem=True).recall for drawn in record["continuations"]]
        for record in samples.values()
    ]
    for k in budgets(min(map(len, scores))):
        found.add(f"leak_at_{k}", lambda k=k: mean([leak_at_k(some, k) for some in scores], RATE))


def _task_numbers(found: Found, samples: Mapping[str, Record], scores: Mapping[str, Record]) -> None:
    """Add lm-eval's numbers of a task: means over its samples, and what it gives with a standard error."""
    for name in dict.fromkeys(name for record in samples.values() for name in record["values"]):
        values = [record["values"][name] for record in samples.values() if name in record["values"]]
        bounds = RATE if {0.0, 1.0}.issuperset(values) else (-math.inf, math.inf)
        found.add(name, lambda values=values, bounds=bounds: mean(values, bounds))
    for name, record in scores.items():
        value, stderr = record["value"], record.get("stderr")
        ends = (None, None) if not stderr else (value - _NORMAL * stderr, value + _NORMAL * stderr)
        found.numbers[name] = Estimate(value, *ends, record.get("samples") or 0)


def _divergence_numbers(found: Found, records: Mapping[str, Record]) -> None:
    for reference in dict.fromkeys(record["reference"] for record in records.values()):
        group = {name: record for name, record in records.items() if record["reference"] == reference}
        tokens = column(group, "tokens")
        for start, key, bounds in zip(BESIDE, ("kl", "agreed"), (_POSITIVE, RATE), strict=True):
            values = (column(group, key), tokens, bounds)
            found.add(start + reference, lambda values=values: ratio(*values))


def _tofu(found: Found, sheet: RecordTable, retain: RecordTable | None) -> None:
    if "answer" not in sheet.kinds:
        return
    if absent := [text for text in UTILITY if not sheet.of("answer", text) or not sheet.of("continuation", text)]:
        found.missing["model_utility"] = f"needs answers and continuations of {name_some(absent)}"
    else:
        found.add("model_utility", lambda: _model_utility(sheet))
    if not sheet.of("answer", FORGET):
        found.missing["forget_quality"] = f"needs answers of {FORGET}"
    elif retain is None:
        found.missing["forget_quality"] = NEEDS_RETAIN
    elif not retain.of("answer", FORGET):
        found.missing["forget_quality"] = f"needs answers of {FORGET} in {retain.where}"
    else:
        found.add("forget_quality", lambda: _forget_test(sheet, retain, "p_value"))
        found.add("forget_distance", lambda: _forget_test(sheet, retain, "distance"))


def _forget_test(sheet: RecordTable, retain: RecordTable, number: str) -> Estimate:
    """Return one of the two numbers of the Kolmogorov-Smirnov test of truth ratios; neither has an interval.

    The bootstrap of D never comes down to the 0 of two models that do not differ, so its interval would cover nothing
    there; the p-value says what the sample can tell.
    """
    check_same_samples(sheet, retain, "answer", FORGET)
    sides = [_truth_ratios(each.of("answer", FORGET)) for each in (sheet, retain)]
    return Estimate(getattr(qa.forget_quality(*sides), number), None, None, len(sides[0]))


def _model_utility(sheet: RecordTable) -> Estimate:
    """Return the harmonic mean of nine means; a resample draws each sample's three numbers together."""
    tables = []
    for text in UTILITY:
        answers, continuations = sheet.of("answer", text), sheet.of("continuation", text)
        if other := sorted(answers.keys() ^ continuations.keys()):
            raise DataError(
                f"answers and continuations of {text} in {sheet.where} have other samples: {name_some(other)}",
                "Evaluate that model on that text again.",
            )
        rouge = [rouge_l(r["reference"], r["continuation"], stem=True).recall for r in continuations.values()]
        truth = qa.utility_truth(_truth_ratios(answers))
        order = {sample: place for place, sample in enumerate(continuations)}
        rouge = [rouge[order[sample]] for sample in answers]
        tables.append(np.stack([_probabilities(answers, text), np.asarray(rouge), truth]))

    def statistic(*positions: Any) -> Floats:
        means = [table[:, index].mean(-1) for table, index in zip(tables, positions, strict=True)]
        return qa.harmonic_mean(np.moveaxis(np.concatenate(means), 0, -1))

    return estimate(statistic, *(table.shape[1] for table in tables), bounds=RATE)


def _probabilities(answers: Mapping[str, Record], text: str) -> Floats:
    if text not in CHOICES:
        return qa.probability(column(answers, "loss"))
    return np.asarray([qa.normalised_probability(r["loss"], r["perturbed_losses"]) for r in answers.values()])


def _truth_ratios(answers: Mapping[str, Record]) -> Floats:
    return np.asarray([qa.truth_ratio(r["paraphrased_loss"], r["perturbed_losses"]) for r in answers.values()])
