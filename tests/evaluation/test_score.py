"""`taskarith score`: every number from stored records alone, ours and TOFU's, and records that are refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from scoring import HAND_MADE, KNOWN, UNKNOWN, forget_log, losses, run, write, write_logs

from taskarith.errors import DataError, MismatchError, UsageError
from taskarith.evaluation.records import answer_record, divergence_record
from taskarith.evaluation.score import score


def test_a_missing_reference_is_named(tmp_path, logs):
    folder = write_logs(tmp_path / "m", logs)
    result = run(folder, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["missing"]["m"] == {"forget_quality": "needs a model that never saw the forget set: --reference"}
    assert "forget quality (TOFU, KS p): needs a model that never saw" in result.stderr
    del logs["eval_real_author_wo_options.json"]
    alone = score([write_logs(tmp_path / "less", logs)])
    assert alone.missing["less"]["model_utility"] == "needs answers and continuations of real_authors"


def test_numbers_beside_a_retain_model_of_another_data_set_are_missing(tmp_path, logs):
    edited = write_logs(tmp_path / "m", logs)
    shorter = write_logs(tmp_path / "shorter", {"eval_log_forget.json": forget_log([1, 2])})
    found = score([edited], reference=shorter)
    assert found.missing["m"].keys() == {"forget_quality", "forget_distance"}
    assert found.missing["m"]["forget_quality"].endswith("have different samples of forget: 2, 3")
    assert "model_utility" in found.overall["m"]
    other = forget_log([1, 2, 3, 4])
    other["generated_text"]["2"][2] = "another answer"
    found = score([edited], reference=write_logs(tmp_path / "other", {"eval_log_forget.json": other}))
    assert "different true texts of forget with the same ids: 2" in found.missing["m"]["forget_quality"]
    nothing = write_logs(tmp_path / "nothing", {"eval_log.json": HAND_MADE["eval_log.json"]})
    with pytest.raises(DataError, match="nothing has no losses or answers of a text named forget"):
        score([edited], reference=nothing)


def test_models_side_by_side_on_other_samples_are_remarked(tmp_path):
    one = write(tmp_path / "1.jsonl", losses("e", "forget", KNOWN))
    two = write(tmp_path / "2.jsonl", losses("e", "forget", KNOWN[:2]))
    scores = score([one, two])
    assert scores.models == (f"e ({one})", f"e ({two})")
    assert "have different samples of forget: s2" in scores.remarks[0]
    with pytest.raises(MismatchError, match="different samples of forget: s2"):
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
    with pytest.raises(UsageError, match="at least two seeds"):
        score(paths[:1], seeds=True)
    rows[1] += [answer_record("e", "qa", "0", 1, 1, [2]), divergence_record("e", "forget", "s0", "base", 1.0, 1, 2)]
    write(paths[1], rows[1])
    scores = score(paths, seeds=True)
    assert scores.missing["e"]["probability"] == "is missing for qa under some seeds"
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


def test_the_table_shows_values_intervals_and_what_is_missing(tmp_path, logs):
    retain = write_logs(tmp_path / "retain", {"eval_log_forget.json": forget_log([5, 6, 7, 8])})
    result = run(write_logs(tmp_path / "m", logs), retain, "--reference", retain, "--full")
    assert result.exit_code == 0, result.stderr
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert "0.457627 [" in lines["model utility (TOFU)"]
    assert lines["model utility (TOFU)"].split()[-1] == "-"
    assert "2.857e-02" in lines["forget quality (TOFU, KS p)"]
    assert "1.000e+00" in lines["forget quality (TOFU, KS p)"]
    assert "model utility (TOFU): needs answers and continuations of retain, real_authors, world_facts" in result.stderr


def test_score_imports_no_model_library(tmp_path, logs):
    folder = write_logs(tmp_path / "m", logs)
    code = (
        "import sys; from typer.testing import CliRunner; from taskarith.cli.main import app\n"
        "done = CliRunner().invoke(app, ['score', sys.argv[1]]); assert done.exit_code == 0, done.output\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=True)
