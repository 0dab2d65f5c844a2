"""Membership inference from records: AUC and low-FPR rates of each attack, and PrivLeak."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from taskarith.errors import name_some
from taskarith.evaluation.gaps import Collected
from taskarith.evaluation.metrics import low_fpr, membership
from taskarith.evaluation.metrics.intervals import Estimate, Floats
from taskarith.evaluation.read_records import RecordTable, check_same_samples
from taskarith.evaluation.records import Record, text_tokens

__all__ = ["FORGET", "HOLDOUT", "NEEDS_RETAIN", "membership_numbers"]

FORGET, HOLDOUT = "forget", "holdout"
NEEDS_RETAIN = "needs a model that never saw the forget set: --reference"
NEEDS_GRADIENTS = "needs gradients of forget and holdout: eval --gradient-norms"

_SHARES = (0.2, 0.4)  # Min-K%'s paper and MUSE
_MUSE_SHARE = 0.4

_RATES = (0.001, 0.01, 0.05)  # LiRA's paper; Min-K%'s

_Score = Callable[[Record], float]
_Sides = tuple[list[float], list[float]]


def membership_numbers(collected: Collected, table: RecordTable, retain: RecordTable | None) -> None:
    """Add every attack's AUC and true positive rates at low false positive rates, and PrivLeak.

    :param table: Records of the attacked model; without losses of a text named ``forget``, nothing is added.
    :param retain: Records of a model that never saw the forget set.
    """
    if not table.of("loss", FORGET):
        return
    if not table.of("loss", HOLDOUT):
        reason = f"needs losses of a text named {HOLDOUT}, similar to {FORGET} but never trained on"
        collected.missing["membership"] = reason
        return
    for name, (keys, score) in _attacks().items():
        if lacking := _lacking(table, keys):
            collected.missing[f"auc_{name}"] = lacking
        else:
            _add_attack(collected, name, lambda score=score: _sides(table, score))
    if all(table.of("gradient", text) for text in (FORGET, HOLDOUT)):
        _add_attack(collected, "gradient", lambda: _sides(table, lambda record: -record["norm"], "gradient"))
    else:
        collected.missing["auc_gradient"] = NEEDS_GRADIENTS
    nonmembers = len(table.of("loss", HOLDOUT))
    needed = {_percent(rate): low_fpr.needed_nonmembers(rate) for rate in _RATES}
    if lacking := [f"{least:,} for {rate}%" for rate, least in needed.items() if nonmembers < least]:
        collected.missing["tpr"] = f"needs more samples of {HOLDOUT} than {nonmembers:,}: {', '.join(lacking)}"
    _beside_retain(collected, table, retain)


def _attacks() -> dict[str, tuple[Sequence[str], _Score]]:
    """Return each attack's name, the fields of a loss record that it needs, and its score.

    As in open-unlearning, Min-K% and Min-K%++ use the text's own tokens only; the other losses include end tokens.
    """

    def min_k(share: float) -> _Score:
        return lambda record: membership.min_k_score(_exact(record, "token_losses"), share)

    def min_k_plus(share: float) -> _Score:
        return lambda record: membership.min_k_plus_score(_exact(record, "z_scores"), share)

    return {
        "loss": ((), lambda record: -record["nll"] / record["tokens"]),
        "zlib": (("zlib_bytes",), lambda r: membership.zlib_score([r["nll"] / r["tokens"]], r["zlib_bytes"])),
        **{f"min_{_percent(share)}": (("token_losses", "end_tokens"), min_k(share)) for share in _SHARES},
        **{f"min_{_percent(share)}_plus": (("z_scores", "end_tokens"), min_k_plus(share)) for share in _SHARES},
    }


def _add_attack(collected: Collected, name: str, sides: Callable[[], _Sides]) -> None:
    """Add the numbers of one attack, without false positive rates that need more nonmembers."""
    scores = collected.attempt(f"auc_{name}", sides)
    if scores is None:
        return
    collected.add(f"auc_{name}", lambda: membership.auc_with_interval(*scores))
    for rate in _RATES:
        if len(scores[1]) >= low_fpr.needed_nonmembers(rate):
            collected.add(f"tpr_at_{_percent(rate)}_{name}", lambda rate=rate: low_fpr.tpr_with_interval(*scores, rate))


def _beside_retain(collected: Collected, table: RecordTable, retain: RecordTable | None) -> None:
    """Add the numbers that need a model that never saw the forget set."""
    both = ("auc_reference", "privleak")
    if retain is None:
        collected.missing |= dict.fromkeys(both, NEEDS_RETAIN)
        return
    if absent := [text for text in (FORGET, HOLDOUT) if not retain.of("loss", text)]:
        collected.missing |= dict.fromkeys(both, f"needs losses of {name_some(absent)} in {retain.where}")
        return

    def against(record: Record) -> float:
        other = retain.of("loss", record["text"])[record["sample"]]
        return membership.reference_score([record["nll"] / record["tokens"]], [other["nll"] / other["tokens"]])

    def reference() -> _Sides:
        _check_same(table, retain)
        return _sides(table, against)

    def privleak() -> Estimate:
        _check_same(table, retain)
        return membership.privleak_with_interval(_sides(table, score), _sides(retain, score))

    _add_attack(collected, "reference", reference)
    keys, score = _attacks()[f"min_{_percent(_MUSE_SHARE)}"]
    if lacking := next((reason for each in (table, retain) if (reason := _lacking(each, keys))), None):
        collected.missing["privleak"] = lacking
    else:
        collected.add("privleak", privleak)


def _check_same(table: RecordTable, retain: RecordTable) -> None:
    for text in (FORGET, HOLDOUT):
        check_same_samples(table, retain, "loss", text)


def _lacking(table: RecordTable, keys: Sequence[str]) -> str | None:
    """Return a note on the fields that some loss records lack, or None."""
    records = [record for text in (FORGET, HOLDOUT) for record in table.of("loss", text).values()]
    absent = [key for key in keys if any(key not in record for record in records)]
    if not absent:
        return None
    return f"needs {' and '.join(absent)} in every loss record of {FORGET} and {HOLDOUT} in {table.where}"


def _sides(table: RecordTable, score: _Score, kind: str = "loss") -> _Sides:
    """Return the scores of members and nonmembers."""
    members, nonmembers = ([score(record) for record in table.of(kind, text).values()] for text in (FORGET, HOLDOUT))
    return members, nonmembers


def _percent(share: float) -> str:
    return f"{100 * share:g}"


def _exact(record: Record, key: str) -> Floats:
    """Return a record's float32 values of its text's own tokens, as float64."""
    return np.asarray(text_tokens(record, record[key]), dtype=np.float32).astype(np.float64)
