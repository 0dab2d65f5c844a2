"""`taskarith score`: every number from stored records alone, ours and TOFU's, and records that are refused."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.errors import DataError, MismatchError, UsageError
from taskarith.evaluation.metrics.membership import auc, privleak
from taskarith.evaluation.records import answer_record, continuation_record, divergence_record, loss_record
from taskarith.evaluation.score import score

LN2 = math.log(2)
PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "tofu-logs"


def run(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


# -- TOFU's logs


def tofu_log(rows):
    """Write rows of (loss, paraphrased loss, perturbed losses, true answer, generated answer) as TOFU does."""
    ids = list(map(str, range(len(rows))))
    keys = ["avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss"]
    log = {key: dict(zip(ids, [row[n] for row in rows], strict=True)) for n, key in enumerate(keys)}
    log["generated_text"] = {n: ["Who?", row[4], row[3]] for n, row in zip(ids, rows, strict=True)}
    log["rougeL_recall"] = dict.fromkeys(ids, 0.123)  # not read
    return log


def forget_log(ratios):
    """Truth ratios are those given: the wrong answer has probability 1, the paraphrase 1 / ratio."""
    return tofu_log([(LN2, math.log(ratio), [0.0], "the answer", "an answer") for ratio in ratios])


HAND_MADE = {
    "eval_log_forget.json": forget_log([1, 2, 3, 4]),
    # probability 1/2 and 1/4, ROUGE recall 1/2 and 1, truth ratio 1/4 and 4
    "eval_log.json": tofu_log(
        [
            (LN2, LN2, [2 * LN2, 4 * LN2], "one two three four", "Four: one two!"),
            (2 * LN2, 3 * LN2, [LN2, LN2], "the dogs", "the dog"),
        ]
    ),
    # normalised probability 1/2 and 1/2, ROUGE recall 1 and 0, truth ratio 1/2 and 1
    "eval_real_author_wo_options.json": tofu_log(
        [(LN2, LN2, [2 * LN2, 2 * LN2], "Ann", "It is Ann."), (LN2, LN2, [LN2], "Bob", "It is Ann.")]
    ),
    # normalised probability 1/2, ROUGE recall 1, truth ratio 1/2
    "eval_real_world_wo_options.json": tofu_log([(LN2, LN2, [2 * LN2, 2 * LN2], "Paris", "Paris")] * 2),
}
UTILITY = 9 / sum(1 / x for x in (3 / 8, 3 / 4, 3 / 8, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 1, 1 / 2))  # = 27 / 59


def write_logs(folder, logs, aggregated=False):
    folder.mkdir(exist_ok=True)
    for name, log in {"eval_log_aggregated.json": logs}.items() if aggregated else logs.items():
        (folder / name).write_text(json.dumps(log), encoding="utf-8")
    return folder


@pytest.fixture
def logs():
    return copy.deepcopy(HAND_MADE)


def test_a_log_worked_out_by_hand(tmp_path, logs):
    pieces, whole = write_logs(tmp_path / "pieces", logs), write_logs(tmp_path / "whole", logs, aggregated=True)
    retain = write_logs(tmp_path / "retain", {"eval_log_forget.json": forget_log([5, 6, 7, 8])})
    scores = score([pieces, whole], retain=retain)
    for model in ("pieces", "whole"):
        overall = scores.overall[model]
        assert overall["model_utility"].value == pytest.approx(UTILITY) == pytest.approx(27 / 59)
        assert overall["model_utility"].low <= UTILITY <= overall["model_utility"].high
        assert overall["forget_quality"].value == pytest.approx(2 / 70)
        assert overall["forget_distance"].value == 1
        assert {overall[name].low for name in ("forget_quality", "forget_distance")} == {None}
        texts = scores.by_text[model]
        assert texts["forget"]["truth_ratio"].value == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
        assert texts["retain"]["probability"].value == pytest.approx(3 / 8)
        assert texts["retain"]["rouge_l_recall_stemmed"].value == 3 / 4
        assert texts["retain"]["rouge_l_recall"].value == (1 / 2 + 1 / 2) / 2  # dogs are no dog
        assert texts["real_authors"]["truth_ratio"].value == pytest.approx(1 / 4)
        assert scores.missing[model] == {}
    assert score([whole / "eval_log_aggregated.json"], retain=retain).overall == {"whole": scores.overall["whole"]}


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"TOFU's published logs are not at {PUBLISHED}")
def test_the_published_logs_give_the_published_numbers():
    full, retain = PUBLISHED / "llama2-7b_full", PUBLISHED / "llama2-7b_retain90"
    scores = score([full, retain], retain=retain)
    utilities = [scores.overall[model.name]["model_utility"].value for model in (full, retain)]
    assert [f"{value:.6f}" for value in utilities] == ["0.622677", "0.613745"]
    assert f"{scores.overall[full.name]['forget_quality'].value:.3e}" == "1.834e-21"
    assert f"{scores.overall[full.name]['forget_distance'].value:.4f}" == "0.3967"
    for model in (full, retain):
        log = json.loads((model / "eval_log_aggregated.json").read_text(encoding="utf-8"))
        for name, text in (("eval_log.json", "retain"), ("eval_real_world_wo_options.json", "world_facts")):
            stored = list(log[name]["rougeL_recall"].values())
            assert scores.by_text[model.name][text]["rouge_l_recall_stemmed"].value == math.fsum(stored) / len(stored)


def test_a_missing_reference_is_named(tmp_path, logs):
    folder = write_logs(tmp_path / "m", logs)
    result = run(folder, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["missing"]["m"] == {"forget_quality": "needs a model that never saw the forget set: --retain"}
    assert "forget quality (TOFU, KS p): needs a model that never saw" in result.stderr
    del logs["eval_real_author_wo_options.json"]
    alone = score([write_logs(tmp_path / "less", logs)])
    assert alone.missing["less"]["model_utility"] == "needs answers and continuations of real_authors"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda log: log.update({key: {} for key in log}), "the forget set is empty"),
        (lambda log: log["avg_gt_loss"].update({"1": math.nan}), r"no finite loss .* 1 of forget by m\n"),
        (lambda log: log["average_perturb_loss"].update({"2": []}), r"losses of wrong answers: 2 of forget"),
        (lambda log: log["average_perturb_loss"].update({"2": [1, None]}), r"losses of wrong answers: 2 of forget"),
        (lambda log: log["avg_gt_loss"].pop("3"), "avg_paraphrased_loss has other samples than avg_gt_loss: 3"),
        (lambda log: log.pop("generated_text"), "lacks generated_text"),
        (lambda log: log["generated_text"].update({"0": ["only"]}), "sample 0 has no prompt, answer and true answer"),
    ],
)
def test_a_broken_log_is_refused(tmp_path, logs, spoil, words):
    spoil(logs["eval_log_forget.json"])
    with pytest.raises(DataError, match=words):
        score([write_logs(tmp_path / "m", logs)])


def test_an_id_twice_in_a_log_is_refused(tmp_path, logs):
    folder = write_logs(tmp_path / "m", logs)
    path = folder / "eval_log.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"1":', '"0":', 1), encoding="utf-8")
    with pytest.raises(DataError, match="has an id twice: 0"):
        score([folder])


def test_numbers_beside_a_retain_model_of_another_data_set_are_missing(tmp_path, logs):
    edited = write_logs(tmp_path / "m", logs)
    shorter = write_logs(tmp_path / "shorter", {"eval_log_forget.json": forget_log([1, 2])})
    found = score([edited], retain=shorter)
    assert found.missing["m"].keys() == {"forget_quality", "forget_distance"}
    assert found.missing["m"]["forget_quality"].endswith("have other samples of forget: 2, 3")
    assert "model_utility" in found.overall["m"]
    other = forget_log([1, 2, 3, 4])
    other["generated_text"]["2"][2] = "another answer"
    found = score([edited], retain=write_logs(tmp_path / "other", {"eval_log_forget.json": other}))
    assert "other true texts for the same ids of forget: 2" in found.missing["m"]["forget_quality"]
    nothing = write_logs(tmp_path / "nothing", {"eval_log.json": HAND_MADE["eval_log.json"]})
    with pytest.raises(DataError, match="nothing has no losses or answers of a text named forget"):
        score([edited], retain=nothing)


def test_a_number_that_cannot_be_calculated_is_a_named_gap(tmp_path):
    """PrivLeak divides by zero where the retain model parts both sides; what else was measured is there."""
    edited = write(tmp_path / "e.jsonl", losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN))
    easy, hard = [[0.1, 0.1]] * 3, [[5.0, 5.0]] * 3
    retain = write(tmp_path / "r.jsonl", losses("r", "forget", easy) + losses("r", "holdout", hard))
    result = run(edited, "--retain", retain, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["missing"]["e"].keys() == {"auc_gradient", "tpr", "privleak"}
    assert found["missing"]["e"]["privleak"].startswith("cannot be calculated: the retrained model tells every sample")
    assert "PrivLeak (MUSE): cannot be calculated: the retrained model" in " ".join(result.stderr.split())
    zero = write(tmp_path / "z.jsonl", losses("z", "forget", [[0.0]] * 3) + losses("z", "holdout", [[0.0]] * 3))
    assert score([edited], retain=zero).missing["e"].keys() == {"auc_gradient", "tpr", "auc_reference"}


@pytest.mark.parametrize("lacking", ["hits", "end_tokens"])
def test_records_of_an_older_version_lack_numbers_of_their_text(tmp_path, lacking):
    records = losses("e", "forget", KNOWN)
    del records[1][lacking]
    found = score([write(tmp_path / "r.jsonl", records)])
    assert "loss" in found.by_text["e"]["forget"]
    assert "extraction_strength" not in found.by_text["e"]["forget"]
    assert found.missing["e"]["extraction_strength of forget"].startswith(f"needs {lacking} in every loss record")


def test_end_tokens_are_left_out_where_the_sources_leave_them_out(tmp_path):
    """A model that knows every answer, and never ends it: extraction strength 1, as open-unlearning says."""
    rows = [[0.1, 0.2, 0.1, 9.0]] * 3
    records = losses("e", "forget", rows, end_tokens=1) + losses("e", "holdout", UNKNOWN)
    found = score([write(tmp_path / "r.jsonl", records)])
    forget = found.by_text["e"]["forget"]
    assert forget["extraction_strength"].value == forget["exact_memorisation"].value == 1
    assert forget["accuracy"].value == 0.75
    assert forget["loss"].value == pytest.approx(9.4 / 4)
    assert found.overall["e"]["auc_min_20"].value == 1
    assert found.overall["e"]["auc_loss"].value < 1


# -- our own records


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def losses(model, text, rows, **more):
    """Loss records with every field, made from rows of token losses."""
    return [
        loss_record(
            model,
            text,
            f"s{n}",
            float(np.sum(row)),
            len(row),
            sum(loss < 1 for loss in row),
            **{"token_losses": row, "hits": [loss < 1 for loss in row], "z_scores": [-loss for loss in row]}
            | {"zlib_bytes": 10, "end_tokens": 0}
            | more,
        )
        for n, row in enumerate(rows)
    ]


KNOWN, UNKNOWN = [[0.5, 2, 0.25], [0.5, 0.5, 0.5], [1, 1, 4]], [[3, 3, 3], [2, 2, 5], [0.5, 2.5, 0.5]]


def test_membership_and_memorisation_by_hand(tmp_path):
    edited = write(tmp_path / "e.jsonl", losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN))
    retain = write(tmp_path / "r.jsonl", losses("r", "forget", UNKNOWN) + losses("r", "holdout", UNKNOWN))
    scores = score([edited], retain=retain)
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
    shown = run(tmp_path / "r.jsonl").stdout
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
    assert "--retain" in missing["privleak"]
    assert "--retain" in missing["auc_reference"]
    retain = write(tmp_path / "3.jsonl", losses("r", "forget", UNKNOWN) + losses("r", "holdout", UNKNOWN))
    missing = score([both], retain=retain).missing["e"]
    assert missing["privleak"] == f"needs token_losses in every loss record of forget and holdout in {both}"
    forget_only = write(tmp_path / "4.jsonl", losses("r", "forget", UNKNOWN))
    assert score([both], retain=forget_only).missing["e"]["privleak"] == f"needs losses of holdout in {forget_only}"


def test_token_losses_are_kept_to_the_last_bit_of_float32():
    values = np.random.default_rng(1).exponential(2, size=500).astype(np.float32)
    kept = json.loads(json.dumps(loss_record("m", "t", "s", 1.0, 500, 0, token_losses=values)))["token_losses"]
    assert np.array_equal(np.asarray(kept, dtype=np.float32), values)
    assert max(len(str(value)) for value in kept) <= 14


def test_divergence_is_by_token_and_by_reference(tmp_path):
    records = [
        divergence_record("e", "forget", "0", "base", 3.0, 1, 2),
        divergence_record("e", "forget", "1", "base", 1.0, 2, 2),
        divergence_record("e", "forget", "0", "retrained", 0.5, 2, 2),
    ]
    found = score([write(tmp_path / "r.jsonl", records)]).by_text["e"]["forget"]
    assert {name: number.value for name, number in found.items()} == {
        "kl from base": 1,
        "agreement with base": 0.75,
        "kl from retrained": 0.25,
        "agreement with retrained": 1,
    }


def test_texts_of_muse_give_its_numbers(tmp_path):
    records = [
        continuation_record("e", "verbmem", "0", "p", "one two three four", "one two three five"),
        continuation_record("e", "verbmem", "1", "p", "one two", "three four"),
        continuation_record("e", "knowmem_forget", "0", "q", "Ann", "Ann"),
    ]
    found = score([write(tmp_path / "r.jsonl", records)]).overall["e"]
    assert {name: number.value for name, number in found.items()} == {"verbmem": 37.5, "knowmem_forget": 100}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"nll": math.nan}, "loss has no finite nll: s1 of forget by e"),
        ({"nll": None}, "loss has no finite nll"),
        ({"tokens": 0}, "no tokens"),
        ({"correct": 4}, "more right ones than there are"),
        ({"token_losses": [1, 2]}, "not one a token"),
        ({"token_losses": [1, 2, math.inf]}, "not finite"),
        ({"hits": "110"}, "hits that contradict"),
        ({"zlib_bytes": 0}, "no size in zlib_bytes"),
        ({"sample": "s0"}, "loss is there twice: s0 of forget by e"),
        ({"sample": 7}, "record 2 of .* lacks sample"),
        ({"kind": "smell"}, "unknown kind 'smell'"),
        ({"kind": "answer"}, "answer has no finite loss"),
        ({"kind": "continuation"}, "lacks reference or continuation"),
        ({"kind": "divergence"}, "no reference"),
    ],
)
def test_a_record_that_cannot_be_right_is_refused_by_name(tmp_path, spoil, words):
    records = losses("e", "forget", KNOWN)
    records[1] |= spoil
    with pytest.raises(DataError, match=words):
        score([write(tmp_path / "r.jsonl", records)])


def test_files_that_are_no_records_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "cut.jsonl").write_text('{"kind": "loss", "mo')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "other.json").write_text('{"a": 1}')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    (tmp_path / "folder").mkdir()
    for name, words in {
        "empty.jsonl": "holds no records",
        "cut.jsonl": "no file of JSON lines",
        "list.jsonl": "line 1 of .* is not a record",
        "other.json": "logs of unknown names: a",
        "list.json": "has no logs",
        "deep.jsonl": "no file of JSON lines",
        "deep.json": "is not JSON",
        "bytes.jsonl": "no file of JSON lines",
        "folder": "has no records",
        "absent": "there are no records at",
    }.items():
        with pytest.raises(DataError, match=words):
            score([tmp_path / name])
        assert run(tmp_path / name).exit_code == 1


def test_models_side_by_side_on_other_samples_are_remarked(tmp_path):
    one = write(tmp_path / "1.jsonl", losses("e", "forget", KNOWN))
    two = write(tmp_path / "2.jsonl", losses("e", "forget", KNOWN[:2]))
    scores = score([one, two])
    assert scores.models == (f"e ({one})", f"e ({two})")
    assert "have other samples of forget: s2" in scores.remarks[0]
    with pytest.raises(MismatchError, match="other samples of forget: s2"):
        score([one, two], seeds=True)
    with pytest.raises(UsageError, match="given twice"):
        score([one, one])


def test_seeds_become_one_row_with_a_spread(tmp_path):
    rows = [losses("e", "forget", [[1.0, shift], [2.0, 2.0]]) for shift in (1.0, 3.0)]
    paths = [write(tmp_path / f"{n}.jsonl", records) for n, records in enumerate(rows)]
    scores = score(paths, seeds=True)
    found = scores.by_text["e"]["forget"]["loss"]
    assert (scores.models, found.value, found.seeds) == (("e",), 1.75, 2)
    assert found.spread == pytest.approx(0.5 / math.sqrt(2))
    shown = run(*paths, "--seeds").stdout
    assert "1.750 ± 0.354" in shown
    with pytest.raises(UsageError, match="two seeds or more"):
        score(paths[:1], seeds=True)
    rows[1] += [answer_record("e", "qa", "0", 1, 1, [2]), divergence_record("e", "forget", "s0", "base", 1.0, 1, 2)]
    write(paths[1], rows[1])
    scores = score(paths, seeds=True)
    assert scores.missing["e"]["probability"] == "is not there for qa under every seed"
    assert "kl from base" not in scores.by_text["e"]["forget"]


def test_seeds_compare_each_with_its_own_rows(tmp_path):
    paths = []
    for seed, kl in enumerate((1.0, 3.0)):
        names = [f"seed{seed}/{name}" for name in ("base", "edited")]
        sides = (("forget", KNOWN), ("holdout", UNKNOWN))
        rows = [record for name in names for text, side in sides for record in losses(name, text, side)]
        beside = [divergence_record(names[1], "forget", f"s{n}", names[0], kl, 1, 2) for n in range(3)]
        paths.append(write(tmp_path / f"{seed}.jsonl", rows + beside))
    found = score(paths, seeds=True)
    assert found.models == ("seed0/base", "seed0/edited")
    assert found.by_text["seed0/edited"]["forget"]["kl from seed0/base"].value == 1.0  # 1/2 and 3/2
    assert found.missing["seed0/edited"].keys() == {"auc_gradient", "tpr", "auc_reference", "privleak"}


def test_the_retain_model_may_be_among_the_records(tmp_path):
    both = losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN)
    both += losses("r", "forget", UNKNOWN) + losses("r", "holdout", UNKNOWN)
    paths = [write(tmp_path / f"{n}.jsonl", both) for n in range(2)]
    found = score(paths[:1], retain="r")
    assert found.overall["e"]["privleak"].value == pytest.approx(privleak(7 / 9, 1 / 2))
    assert found.overall["r"]["privleak"].value == 0
    seeds = score(paths, retain="r", seeds=True).overall["e"]["privleak"]
    assert (seeds.value, seeds.spread) == (pytest.approx(privleak(7 / 9, 1 / 2)), 0)


def test_retain_records_of_several_models_are_refused(tmp_path):
    two = write(tmp_path / "2.jsonl", losses("a", "forget", KNOWN) + losses("b", "forget", KNOWN))
    with pytest.raises(UsageError, match="several models: a, b"):
        score([two], retain=two)
    with pytest.raises(UsageError, match="no records are given"):
        score([])


# -- the command


def test_the_table_shows_values_intervals_and_what_is_missing(tmp_path, logs):
    retain = write_logs(tmp_path / "retain", {"eval_log_forget.json": forget_log([5, 6, 7, 8])})
    result = run(write_logs(tmp_path / "m", logs), retain, "--retain", retain)
    assert result.exit_code == 0, result.stderr
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert "0.457627 [" in lines["model utility (TOFU)"]
    assert lines["model utility (TOFU)"].split()[-1] == "-"
    assert "2.857e-02" in lines["forget quality (TOFU, KS p)"]
    assert "1.000e+00" in lines["forget quality (TOFU, KS p)"]
    assert "model utility (TOFU): needs answers and continuations of retain, real_authors, world_facts" in result.stderr


def test_json_names_the_conventions_of_its_numbers_only(tmp_path):
    records = losses("e", "forget", KNOWN) + losses("e", "holdout", UNKNOWN)
    records += [answer_record("e", "qa", "0", 1, 1, [2]), divergence_record("e", "forget", "0", "base", 1.0, 1, 2)]
    result = run(write(tmp_path / "r.jsonl", records), "--json", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert list(found) == ["models", "texts", "scores", "overall", "missing", "remarks", "conventions"]
    assert found["scores"]["e"]["forget"]["loss"]["n"] == 3
    assert set(found["conventions"]) == {
        *("loss", "perplexity", "accuracy", "exact_memorisation", "extraction_strength", "probability", "truth_ratio"),
        *("truth_probability", "kl", "agreement", "auc", "auc_loss", "auc_zlib", "auc_min", "intervals", "seeds"),
    }


def test_score_imports_no_model_library(tmp_path, logs):
    folder = write_logs(tmp_path / "m", logs)
    code = (
        "import sys; from typer.testing import CliRunner; from taskarith.cli.main import app\n"
        "done = CliRunner().invoke(app, ['score', sys.argv[1]]); assert done.exit_code == 0, done.output\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=True)
