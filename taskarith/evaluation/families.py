"""From one model's records to its numbers: which records each number needs, and what it is called without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from taskarith.errors import DataError, name_some
from taskarith.evaluation.metrics import membership, qa
from taskarith.evaluation.metrics.intervals import Estimate, Floats, estimate, mean, ratio
from taskarith.evaluation.metrics.text import exact_memorisation, extraction_strength, perplexity, verbmem
from taskarith.evaluation.records import Record
from taskarith.evaluation.rouge import rouge_l
from taskarith.evaluation.stored import Sheet, check_same_samples

__all__ = ["BESIDE", "CHOICES", "FORGET", "HOLDOUT", "UTILITY", "Missing", "Numbers", "across_texts", "of_text"]

Numbers = dict[str, Estimate]
Missing = dict[str, str]
"""A number's name to what it lacks."""

FORGET, HOLDOUT = "forget", "holdout"
UTILITY = ("retain", "real_authors", "world_facts")
"""Names of the texts that TOFU's model utility is made from."""
CHOICES = ("real_authors", "world_facts")
"""Those of them whose probability is normalised over the wrong answers."""
BESIDE = ("kl from ", "agreement with ")
"""Beginnings of names that end with that of the model which a number compares with."""
_MUSE = {"verbmem": verbmem, "knowmem_forget": qa.knowmem, "knowmem_retain": qa.knowmem}
"""MUSE's texts, and what each of their continuations counts."""

_SHARES = (0.2, 0.4)  # Min-K%'s paper and MUSE
_MUSE_SHARE = 0.4
_NORMAL = 1.959963984540054  # standard errors on either side of a 95% interval

_NO_RETAIN = "a model that never saw the forget set: --retain"


def of_text(sheet: Sheet, text: str) -> Numbers:
    """Return all numbers that the records of one text give.

    :raises DataError: A number cannot be calculated from records that are there.
    """
    numbers = {**_loss_numbers(sheet.of("loss", text)), **_continuation_numbers(sheet.of("continuation", text))}
    if answers := sheet.of("answer", text):
        ratios = _truth_ratios(answers)
        numbers["probability"] = mean(_probabilities(answers, text))
        numbers["truth_ratio"] = mean(qa.forget_truth(ratios) if text == FORGET else qa.utility_truth(ratios))
    numbers |= _task_numbers(sheet.of("task", text), sheet.of("task_score", text))
    return {**numbers, **_divergence_numbers(sheet.of("divergence", text))}


def across_texts(sheet: Sheet, retain: Sheet | None) -> tuple[Numbers, Missing]:
    """Return the numbers that need several texts or another model, and what is missing for others.

    A number is looked for where its forget set is there: a text named ``forget`` with answers for TOFU, with losses for
    membership inference. Texts of MUSE's names give its numbers.

    :param retain: Records of a model that never saw the forget set.
    :raises MismatchError: The retain model's records are of other samples.
    """
    numbers: Numbers = {
        name: mean([number(record["reference"], record["continuation"]) for record in found.values()])
        for name, number in _MUSE.items()
        if (found := sheet.of("continuation", name))
    }
    missing: Missing = {}
    for family in (_tofu, _membership):
        found, lacking = family(sheet, retain)
        numbers |= found
        missing |= lacking
    return numbers, missing


def _loss_numbers(records: Mapping[str, Record]) -> Numbers:
    if not records:
        return {}
    tokens = _column(records, "tokens")
    correct = _column(records, "correct")
    loss = ratio(_column(records, "nll"), tokens)
    low, high = (None if end is None else perplexity(end) for end in (loss.low, loss.high))
    numbers = {
        "loss": loss,
        "perplexity": Estimate(perplexity(loss.value), low, high, loss.n),
        "accuracy": ratio(correct, tokens),
        "exact_memorisation": mean(exact_memorisation(correct, tokens)),
    }
    if all("hits" in record for record in records.values()):
        strengths = [extraction_strength([hit == "1" for hit in record["hits"]]) for record in records.values()]
        numbers["extraction_strength"] = mean(strengths)
    return numbers


def _continuation_numbers(records: Mapping[str, Record]) -> Numbers:
    if not records:
        return {}
    pairs = [(record["reference"], record["continuation"]) for record in records.values()]
    plain, stemmed = ([rouge_l(*pair, stem=stem) for pair in pairs] for stem in (False, True))
    return {
        "rouge_l_f1": mean([score.f1 for score in plain]),
        "rouge_l_recall": mean([score.recall for score in plain]),
        "rouge_l_f1_stemmed": mean([score.f1 for score in stemmed]),
        "rouge_l_recall_stemmed": mean([score.recall for score in stemmed]),
        "verbatim": mean([float(truth.split() == guess.split()) for truth, guess in pairs]),
    }


def _task_numbers(samples: Mapping[str, Record], scores: Mapping[str, Record]) -> Numbers:
    """Return lm-eval's numbers of a task: means over its samples, and what it gives with a standard error."""
    names = dict.fromkeys(name for record in samples.values() for name in record["values"])
    numbers = {
        name: mean([record["values"][name] for record in samples.values() if name in record["values"]])
        for name in names
    }
    for name, record in scores.items():
        value, stderr = record["value"], record["stderr"]
        ends = (None, None) if stderr is None else (value - _NORMAL * stderr, value + _NORMAL * stderr)
        numbers[name] = Estimate(value, *ends, record["samples"] or 0)
    return numbers


def _divergence_numbers(records: Mapping[str, Record]) -> Numbers:
    numbers: Numbers = {}
    for reference in dict.fromkeys(record["reference"] for record in records.values()):
        group = {name: record for name, record in records.items() if record["reference"] == reference}
        tokens = _column(group, "tokens")
        numbers |= {
            start + reference: ratio(_column(group, key), tokens)
            for start, key in zip(BESIDE, ("kl", "agreed"), strict=True)
        }
    return numbers


def _tofu(sheet: Sheet, retain: Sheet | None) -> tuple[Numbers, Missing]:
    if "answer" not in sheet.kinds:
        return {}, {}
    numbers: Numbers = {}
    missing: Missing = {}
    if absent := [text for text in UTILITY if not sheet.of("answer", text) or not sheet.of("continuation", text)]:
        missing["model_utility"] = f"answers and continuations of {name_some(absent)}"
    else:
        numbers["model_utility"] = _model_utility(sheet)
    if not sheet.of("answer", FORGET):
        missing["forget_quality"] = f"answers of {FORGET}"
    elif retain is None:
        missing["forget_quality"] = _NO_RETAIN
    elif not retain.of("answer", FORGET):
        missing["forget_quality"] = f"answers of {FORGET} in {retain.where}"
    else:
        check_same_samples(sheet, retain, "answer", FORGET)
        sides = [_truth_ratios(each.of("answer", FORGET)) for each in (sheet, retain)]
        quality, samples = qa.forget_quality(*sides), len(sheet.of("answer", FORGET))
        numbers["forget_quality"] = Estimate(quality.p_value, None, None, samples)
        numbers["forget_distance"] = estimate(qa.resampled_distance(*sides), samples)
    return numbers, missing


def _model_utility(sheet: Sheet) -> Estimate:
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

    return estimate(statistic, *(table.shape[1] for table in tables))


def _probabilities(answers: Mapping[str, Record], text: str) -> Floats:
    if text not in CHOICES:
        return qa.probability(_column(answers, "loss"))
    return np.asarray([qa.normalised_probability(r["loss"], r["perturbed_losses"]) for r in answers.values()])


def _truth_ratios(answers: Mapping[str, Record]) -> Floats:
    return np.asarray([qa.truth_ratio(r["paraphrased_loss"], r["perturbed_losses"]) for r in answers.values()])


def _membership(sheet: Sheet, retain: Sheet | None) -> tuple[Numbers, Missing]:
    if not sheet.of("loss", FORGET):
        return {}, {}
    if not sheet.of("loss", HOLDOUT):
        return {}, {"membership": f"losses of a text named {HOLDOUT}, of the kind of {FORGET} and never trained on"}
    numbers: Numbers = {}
    missing: Missing = {}
    for name, (keys, score) in _attacks().items():
        sides = _sides(sheet, keys, score)
        if sides is None:
            missing[name] = f"{' and '.join(keys)} in every loss record of {FORGET} and {HOLDOUT}"
        else:
            numbers[name] = membership.auc_with_interval(*sides)
    found, lacking = _beside_retain(sheet, retain)
    return {**numbers, **found}, {**missing, **lacking}


_Score = Callable[[Record], float]


def _attacks() -> dict[str, tuple[Sequence[str], _Score]]:
    """Return each attack's name, the fields of a loss record that it needs, and its score."""

    def min_k(share: float) -> _Score:
        return lambda record: membership.min_k_score(_exact(record, "token_losses"), share)

    def min_k_plus(share: float) -> _Score:
        return lambda record: membership.min_k_plus_score(_exact(record, "z_scores"), share)

    return {
        "auc_loss": ((), lambda record: -record["nll"] / record["tokens"]),
        "auc_zlib": (("zlib_bytes",), lambda r: membership.zlib_score([r["nll"] / r["tokens"]], r["zlib_bytes"])),
        **{f"auc_min_{_percent(share)}": (("token_losses",), min_k(share)) for share in _SHARES},
        **{f"auc_min_{_percent(share)}_plus": (("z_scores",), min_k_plus(share)) for share in _SHARES},
    }


def _beside_retain(sheet: Sheet, retain: Sheet | None) -> tuple[Numbers, Missing]:
    """Return the membership numbers that need a model that never saw the forget set."""
    if retain is None:
        return {}, {"auc_reference": _NO_RETAIN, "privleak": _NO_RETAIN}
    if absent := [text for text in (FORGET, HOLDOUT) if not retain.of("loss", text)]:
        lacking = f"losses of {name_some(absent)} in {retain.where}"
        return {}, {"auc_reference": lacking, "privleak": lacking}
    for text in (FORGET, HOLDOUT):
        check_same_samples(sheet, retain, "loss", text)

    def against(record: Record) -> float:
        other = retain.of("loss", record["text"])[record["sample"]]
        return membership.reference_score([record["nll"] / record["tokens"]], [other["nll"] / other["tokens"]])

    numbers: Numbers = {}
    if sides := _sides(sheet, (), against):
        numbers["auc_reference"] = membership.auc_with_interval(*sides)
    key = f"auc_min_{_percent(_MUSE_SHARE)}"
    both = []
    for each in (sheet, retain):
        sides = _sides(each, *_attacks()[key])
        if sides is None:
            return numbers, {"privleak": f"token_losses in every loss record of {FORGET} and {HOLDOUT} in {each.where}"}
        both.append(sides)
    numbers["privleak"] = membership.privleak_with_interval(*both)
    return numbers, {}


def _sides(sheet: Sheet, keys: Sequence[str], score: _Score) -> tuple[list[float], list[float]] | None:
    """Return the scores of members and nonmembers; None where a record lacks one of the keys."""
    groups = [list(sheet.of("loss", text).values()) for text in (FORGET, HOLDOUT)]
    if not all(key in record for group in groups for record in group for key in keys):
        return None
    members, nonmembers = ([score(record) for record in group] for group in groups)
    return members, nonmembers


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def _exact(record: Record, key: str) -> Floats:
    """Return the float32 values that a record keeps, as float64."""
    return np.asarray(record[key], dtype=np.float32).astype(np.float64)


def _column(records: Mapping[str, Record], key: str) -> Floats:
    return np.asarray([record[key] for record in records.values()], dtype=np.float64)
