"""Numbers from one model's records, or why they are missing: which records each number needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from taskarith.errors import DataError, name_some
from taskarith.evaluation.gaps import Collected, Missing, Numbers
from taskarith.evaluation.leakage import FORGET, NEEDS_RETAIN, membership_numbers
from taskarith.evaluation.metrics import qa
from taskarith.evaluation.metrics.fluency import ngram_entropy
from taskarith.evaluation.metrics.intervals import RATE, Estimate, Floats, estimate, mean, ratio
from taskarith.evaluation.metrics.rouge import rouge_l
from taskarith.evaluation.metrics.sampling import budgets, leak_at_k
from taskarith.evaluation.metrics.text import exact_memorisation, extraction_strength, perplexity, verbmem
from taskarith.evaluation.read_records import RecordTable, check_same_samples
from taskarith.evaluation.records import Record, column, text_tokens

__all__ = ["BESIDE", "CHOICES", "FORGET", "KNOWMEM", "LENS", "UTILITY", "across_texts", "of_text"]

UTILITY = ("retain", "real_authors", "world_facts")
"""Texts of TOFU's model utility."""
CHOICES = ("real_authors", "world_facts")
"""Texts whose probability is normalised over the wrong answers."""
BESIDE = ("kl from ", "agreement with ")
"""Prefixes of numbers that compare with a model; its name follows."""
KNOWMEM = ("knowmem_forget", "knowmem_retain")
"""Texts of MUSE whose continuations are answers."""
LENS = "lens_"
"""Prefix of the losses at each layer; its number follows."""
_MUSE = {"verbmem": verbmem, **dict.fromkeys(KNOWMEM, qa.knowmem)}
"""MUSE's texts, and the metric of their continuations."""

NEEDS_DRAWS = "needs sampled continuations: eval --draws N"

_POSITIVE = (0.0, math.inf)
_NORMAL = 1.959963984540054  # standard errors to either end of a 95% interval


def of_text(table: RecordTable, text: str) -> tuple[Numbers, Missing]:
    """Return all numbers from the records of one text, and why others are missing."""
    collected = Collected()
    _loss_numbers(collected, table.of("loss", text))
    _continuation_numbers(collected, table.of("continuation", text))
    _sampled_numbers(collected, table, text)
    _lens_numbers(collected, table.of("lens", text))
    if answers := table.of("answer", text):
        collected.add("probability", lambda: mean(_probabilities(answers, text), RATE))
        kind = qa.forget_truth if text == FORGET else qa.utility_truth
        collected.add("truth_ratio", lambda: mean(kind(_truth_ratios(answers)), RATE))
        collected.add("truth_probability", lambda: mean(qa.truth_probability(_truth_ratios(answers)), RATE))
    _task_numbers(collected, table.of("task", text), table.of("task_score", text))
    _divergence_numbers(collected, table.of("divergence", text))
    return collected.numbers, {f"{name} of {text}": reason for name, reason in collected.missing.items()}


def across_texts(table: RecordTable, retain: RecordTable | None) -> tuple[Numbers, Missing]:
    """Return the numbers that need several texts or another model, and why others are missing.

    Numbers are expected if their forget set is present: a text named ``forget``, with answers for TOFU, with losses for
    membership inference. MUSE's numbers are expected for texts with MUSE's names.

    :param retain: Records of a model that never saw the forget set.
    """
    collected = Collected()
    for name, number in _MUSE.items():
        if records := table.of("continuation", name):
            pairs = [(record["reference"], record["continuation"]) for record in records.values()]
            collected.add(
                name, lambda number=number, pairs=pairs: mean([number(*pair) for pair in pairs], (0.0, 100.0))
            )
    _tofu(collected, table, retain)
    membership_numbers(collected, table, retain)
    return collected.numbers, collected.missing


def _loss_numbers(collected: Collected, records: Mapping[str, Record]) -> None:
    if not records:
        return
    tokens, correct = column(records, "tokens"), column(records, "correct")
    loss = collected.add("loss", lambda: ratio(column(records, "nll"), tokens, _POSITIVE))
    if loss is not None:
        low, high = (None if end is None else perplexity(end) for end in (loss.low, loss.high))
        collected.numbers["perplexity"] = Estimate(perplexity(loss.value), low, high, loss.n)
    collected.add("accuracy", lambda: ratio(correct, tokens, RATE))
    names = {"exact_memorisation": _share_known, "extraction_strength": extraction_strength}
    if lacking := [key for key in ("hits", "end_tokens") if any(key not in record for record in records.values())]:
        collected.missing |= dict.fromkeys(names, f"needs {' and '.join(lacking)} in every loss record: evaluate again")
        return
    hits = [[hit == "1" for hit in text_tokens(record, record["hits"])] for record in records.values()]
    for name, number in names.items():
        collected.add(name, lambda number=number: mean([number(row) for row in hits if row], RATE))


def _share_known(hits: list[bool]) -> float:
    return float(exact_memorisation([sum(hits)], [len(hits)])[0])


def _continuation_numbers(collected: Collected, records: Mapping[str, Record]) -> None:
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
        collected.add(name, lambda values=values: mean(values, RATE))
    collected.add("fluency", lambda: mean([ngram_entropy(guess) for _, guess in pairs], _POSITIVE))


def _sampled_numbers(collected: Collected, table: RecordTable, text: str) -> None:
    """Add leak@k of sampled continuations; note it as missing if the forget set has none."""
    samples = table.of("sampled", text)
    if not samples:
        if text == FORGET and table.of("continuation", text) and table.of("loss", text):
            collected.missing["leak_at_k"] = NEEDS_DRAWS
        return
    scores = [
        [rouge_l(record["reference"], drawn, stem=True).recall for drawn in record["continuations"]]
        for record in samples.values()
    ]
    for k in budgets(min(map(len, scores))):
        collected.add(f"leak_at_{k}", lambda k=k: mean([leak_at_k(row, k) for row in scores], RATE))


def _lens_numbers(collected: Collected, records: Mapping[str, Record]) -> None:
    """Add the loss at each layer: of the embeddings, number 0, then of each layer."""
    if reason := next((record["unreadable"] for record in records.values() if "unreadable" in record), None):
        collected.missing["lens"] = reason
        return
    depths = {len(record["nll"]) for record in records.values()}
    if len(depths) > 1:
        collected.missing["lens"] = "cannot be calculated: its samples have different numbers of layers"
        return
    tokens = column(records, "tokens")
    for layer in range(max(depths, default=0)):
        sums = [record["nll"][layer] for record in records.values()]
        collected.add(f"{LENS}{layer}", lambda sums=sums: ratio(sums, tokens, _POSITIVE))


def _task_numbers(collected: Collected, samples: Mapping[str, Record], scores: Mapping[str, Record]) -> None:
    """Add lm-eval's numbers of a task: means over its samples, and numbers with lm-eval's standard error."""
    for name in dict.fromkeys(name for record in samples.values() for name in record["values"]):
        values = [record["values"][name] for record in samples.values() if name in record["values"]]
        bounds = RATE if {0.0, 1.0}.issuperset(values) else (-math.inf, math.inf)
        collected.add(name, lambda values=values, bounds=bounds: mean(values, bounds))
    for name, record in scores.items():
        value, stderr = record["value"], record.get("stderr")
        ends = (None, None) if not stderr else (value - _NORMAL * stderr, value + _NORMAL * stderr)
        collected.numbers[name] = Estimate(value, *ends, record.get("samples") or 0)


def _divergence_numbers(collected: Collected, records: Mapping[str, Record]) -> None:
    for reference in dict.fromkeys(record["reference"] for record in records.values()):
        group = {name: record for name, record in records.items() if record["reference"] == reference}
        tokens = column(group, "tokens")
        for start, key, bounds in zip(BESIDE, ("kl", "agreed"), (_POSITIVE, RATE), strict=True):
            values = (column(group, key), tokens, bounds)
            collected.add(start + reference, lambda values=values: ratio(*values))


def _tofu(collected: Collected, table: RecordTable, retain: RecordTable | None) -> None:
    if "answer" not in table.kinds:
        return
    if absent := [text for text in UTILITY if not table.of("answer", text) or not table.of("continuation", text)]:
        collected.missing["model_utility"] = f"needs answers and continuations of {name_some(absent)}"
    else:
        collected.add("model_utility", lambda: _model_utility(table))
    if not table.of("answer", FORGET):
        collected.missing["forget_quality"] = f"needs answers of {FORGET}"
    elif retain is None:
        collected.missing["forget_quality"] = NEEDS_RETAIN
    elif not retain.of("answer", FORGET):
        collected.missing["forget_quality"] = f"needs answers of {FORGET} in {retain.where}"
    else:
        collected.add("forget_quality", lambda: _forget_test(table, retain, "p_value"))
        collected.add("forget_distance", lambda: _forget_test(table, retain, "distance"))


def _forget_test(table: RecordTable, retain: RecordTable, number: str) -> Estimate:
    """Return a number of the Kolmogorov-Smirnov test of truth ratios, without an interval.

    The bootstrap of D never reaches 0, its value for two equal models, so its interval would not cover it; the p-value
    already accounts for the sample size.
    """
    check_same_samples(table, retain, "answer", FORGET)
    sides = [_truth_ratios(each.of("answer", FORGET)) for each in (table, retain)]
    return Estimate(getattr(qa.forget_quality(*sides), number), None, None, len(sides[0]))


def _model_utility(table: RecordTable) -> Estimate:
    """Return the harmonic mean of nine means; the interval keeps each sample's three numbers together."""
    stacks = []
    for text in UTILITY:
        answers, continuations = table.of("answer", text), table.of("continuation", text)
        if other := sorted(answers.keys() ^ continuations.keys()):
            raise DataError(
                f"answers and continuations of {text} in {table.where} have different samples: {name_some(other)}",
                "Evaluate that model on that text again.",
            )
        rouge = [rouge_l(r["reference"], r["continuation"], stem=True).recall for r in continuations.values()]
        truth = qa.utility_truth(_truth_ratios(answers))
        order = {sample: index for index, sample in enumerate(continuations)}
        rouge = [rouge[order[sample]] for sample in answers]
        stacks.append(np.stack([_probabilities(answers, text), np.asarray(rouge), truth]))

    def statistic(*positions: Any) -> Floats:
        means = [stack[:, index].mean(-1) for stack, index in zip(stacks, positions, strict=True)]
        return qa.harmonic_mean(np.moveaxis(np.concatenate(means), 0, -1))

    return estimate(statistic, *(stack.shape[1] for stack in stacks), bounds=RATE)


def _probabilities(answers: Mapping[str, Record], text: str) -> Floats:
    if text not in CHOICES:
        return qa.probability(column(answers, "loss"))
    return np.asarray([qa.normalised_probability(r["loss"], r["perturbed_losses"]) for r in answers.values()])


def _truth_ratios(answers: Mapping[str, Record]) -> Floats:
    return np.asarray([qa.truth_ratio(r["paraphrased_loss"], r["perturbed_losses"]) for r in answers.values()])
