"""Membership inference from records: what each attack needs, and what is named where it is lacking."""

from __future__ import annotations

import math

import pytest
from scoring import KNOWN, UNKNOWN, losses, run, write

from taskarith.evaluation.metrics.membership import auc, privleak
from taskarith.evaluation.records import continuation_record
from taskarith.evaluation.score import score


def test_membership_and_memorisation_by_hand(tmp_path):
    edited = write(tmp_path / "e.jsonl", losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN))
    retain = write(tmp_path / "r.jsonl", losses("r", "forget", UNKNOWN) + losses("r", "holdout", UNKNOWN))
    scores = score([edited], reference=retain)
    forget, overall = scores.by_text["e"]["forget"], scores.overall["e"]
    assert forget["loss"].value == pytest.approx(10.25 / 9)
    assert forget["accuracy"].value == 5 / 9
    assert forget["exact_memorisation"].value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert forget["extraction_strength"].value == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    # means 2.75/3, 1.5/3, 6/3 of members; 3, 3, 3.5/3 of nonmembers
    assert overall["auc_loss"].value == overall["auc_zlib"].value == pytest.approx(8 / 9)
    # floor(0.4 * 3) = 1 token: 2, 0.5, 4 against 3, 5, 2.5
    for name in ("auc_min_20", "auc_min_40", "auc_min_40_plus"):
        assert overall[name].value == pytest.approx(7 / 9)
    assert overall["auc_reference"].value == auc([-2.75 / 9, -1.5 / 9, -6 / 3.5], [-1, -1, -1])
    assert overall["privleak"].value == pytest.approx(privleak(7 / 9, 1 / 2))
    few = "needs more samples of holdout than 3: 1,000 for 0.1%, 100 for 1%, 20 for 5%"
    needs = {"auc_gradient": "needs gradients of forget and holdout: eval --gradient-norms", "tpr": few}
    assert scores.missing == {"e": needs}


def test_true_positive_rates_are_given_where_the_holdout_set_can_tell_them(tmp_path):
    members, nonmembers = [[n / 10, n / 10] for n in range(10)], [[1 - n / 20] * 2 for n in range(20)]
    records = losses("e", "forget", members) + losses("e", "holdout", nonmembers)
    records.append(continuation_record("e", "forget", "s0", "so", "one two", "one one one two"))
    found = score([write(tmp_path / "r.jsonl", records)])
    rates = {name: number for name, number in found.overall["e"].items() if name.startswith("tpr_at_")}
    attacks = ("loss", "zlib", "min_20", "min_40", "min_20_plus", "min_40_plus")
    assert set(rates) == {f"tpr_at_5_{attack}" for attack in attacks}
    assert rates["tpr_at_5_loss"].value == 0.1  # below the second least loss of nonmembers, 0.1, there is one member
    assert found.missing["e"]["tpr"] == "needs more samples of holdout than 20: 1,000 for 0.1%, 100 for 1%"
    assert found.by_text["e"]["forget"]["fluency"].value == pytest.approx((2 / 3 * (math.log2(3) - 2 / 3) + 4 / 3) / 2)
    shown = run(tmp_path / "r.jsonl", "--full").stdout
    assert "TPR at 5% FPR of Min-40%++" in shown
    assert "fluency" in shown


def test_what_membership_lacks_is_named(tmp_path):
    plain = losses("e", "forget", KNOWN)
    for record in plain:
        del record["token_losses"], record["z_scores"]
    alone = score([write(tmp_path / "1.jsonl", plain)])
    assert alone.missing["e"]["membership"].startswith("needs losses of a text named holdout")
    both = write(tmp_path / "2.jsonl", plain + losses("e", "holdout", UNKNOWN))
    missing = score([both]).missing["e"]
    assert missing["auc_min_40"] == f"needs token_losses in every loss record of forget and holdout in {both}"
    assert "--reference" in missing["privleak"]
    assert "--reference" in missing["auc_reference"]
    retain = write(tmp_path / "3.jsonl", losses("r", "forget", UNKNOWN) + losses("r", "holdout", UNKNOWN))
    missing = score([both], reference=retain).missing["e"]
    assert missing["privleak"] == f"needs token_losses in every loss record of forget and holdout in {both}"
    forget_only = write(tmp_path / "4.jsonl", losses("r", "forget", UNKNOWN))
    assert score([both], reference=forget_only).missing["e"]["privleak"] == f"needs losses of holdout in {forget_only}"
