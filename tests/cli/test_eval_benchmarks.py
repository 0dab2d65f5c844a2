"""`taskarith eval --benchmark` and `--tasks` as a user types them."""

from __future__ import annotations

import json
import math

import layouts
import pytest
from lm_eval_tasks import ROWS, needs_it, write_task
from scipy.stats import ks_2samp
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.metrics.rouge import rouge_l


def run(*arguments, command="eval"):
    return CliRunner().invoke(app, [command, *map(str, arguments)])


def as_json(*arguments, command="eval"):
    result = run(*arguments, "--json", "--quiet", command=command)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def records_of(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def test_tofu_gives_its_numbers_from_answers_that_can_be_scored_again(phi, phi_tuned, tmp_path):
    tofu = layouts.write_tofu(tmp_path / "TOFU")
    found = as_json(phi_tuned, "--reference", phi, "--benchmark", f"tofu={tofu}", "--limit", 3, "-o", tmp_path / "out")
    assert found["models"] == [str(phi_tuned), str(phi)]
    assert found["texts"] == ["forget", "retain", "real_authors", "world_facts"]
    records = records_of(tmp_path / "out")
    answers = {(r["model"], r["text"], r["sample"]): r for r in records if r["kind"] == "answer"}
    assert len(answers) == 2 * 4 * 3

    def ratios(model, text):
        some = [r for (m, t, _), r in answers.items() if (m, t) == (str(model), text)]
        return [math.exp(r["paraphrased_loss"] - sum(r["perturbed_losses"]) / 3) for r in some]

    forget = found["scores"][str(phi_tuned)]["forget"]
    assert forget["truth_ratio"]["value"] == pytest.approx(sum(min(r, 1 / r) for r in ratios(phi_tuned, "forget")) / 3)
    losses = {r["sample"]: r["nll"] / r["tokens"] for r in records if r["kind"] == "loss" and r["model"] == str(phi)}
    assert len(losses) == 3
    facts = found["scores"][str(phi)]["world_facts"]["probability"]
    shares = [
        math.exp(-r["loss"]) / (math.exp(-r["loss"]) + sum(math.exp(-loss) for loss in r["perturbed_losses"]))
        for (m, t, _), r in answers.items()
        if (m, t) == (str(phi), "world_facts")
    ]
    assert facts["value"] == pytest.approx(sum(shares) / 3)
    overall = found["overall"][str(phi_tuned)]
    expected = ks_2samp(ratios(phi_tuned, "forget"), ratios(phi, "forget"))
    assert overall["forget_quality"]["value"] == pytest.approx(expected.pvalue)
    assert "model_utility" in overall
    assert list(found["missing"][str(phi_tuned)]) == ["membership", "leak_at_k of forget"]
    assert "holdout" in found["missing"][str(phi_tuned)]["membership"]
    again = as_json(tmp_path / "out", "--reference", phi, command="score")
    assert (again["scores"], again["overall"]) == (found["scores"], found["overall"])
    provenance = json.loads((tmp_path / "out/taskarith.json").read_text(encoding="utf-8"))
    assert provenance["benchmark"]["spec"] == f"tofu=../{tofu.name}"  # as seen from the record
    assert provenance["arguments"]["limit"] == 3


def test_records_compare_with_logs_as_tofu_publishes_them(phi, tmp_path):
    tofu, log = layouts.write_tofu(tmp_path / "TOFU"), tmp_path / "retain90"
    as_json(phi, "--benchmark", f"tofu={tofu}", "-o", tmp_path / "out")
    rows = [json.loads(line) for line in (tofu / "forget10_perturbed.json").read_text().splitlines()]
    ids = [str(number) for number in range(len(rows))]
    numbers = {
        "avg_gt_loss": dict.fromkeys(ids, 1.0),
        "avg_paraphrased_loss": dict.fromkeys(ids, 9.0),
        "average_perturb_loss": {key: [1.0, 1.0] for key in ids},
        "generated_text": {n: ["q", "a", row["answer"]] for n, row in zip(ids, rows, strict=True)},
    }
    log.mkdir()
    (log / "eval_log_forget.json").write_text(json.dumps(numbers), encoding="utf-8")
    found = as_json(tmp_path / "out", "--reference", log, command="score")
    distance = found["overall"][str(phi)]["forget_distance"]
    assert (distance["value"], distance["n"]) == (1.0, 4)  # every R of the log is e^8


def test_without_references_the_missing_ones_are_named(phi, tmp_path):
    tofu = layouts.write_tofu(tmp_path / "TOFU", holdout=True)
    result = run(phi, "--benchmark", f"tofu={tofu}", "--limit", 2, "--full")
    assert result.exit_code == 0, result.stderr
    assert "forget: the first 2 of 4 samples" in result.stderr
    missing = next(line for line in " ".join(result.stderr.split()).split("missing: ") if "TOFU" in line)
    assert "PrivLeak (MUSE): needs a model that never saw the forget set: --reference" in missing
    assert "AUC of loss" in result.stdout  # against the holdout


def test_muse_gives_its_numbers(phi, phi_tuned, tmp_path, monkeypatch):
    muse, asked = layouts.write_muse(tmp_path / "MUSE"), []

    def spy(model, tokenizer, prompts, *more, max_new_tokens, **options):
        asked.append((max_new_tokens, len(prompts)))
        return continue_greedily(model, tokenizer, prompts, *more, max_new_tokens=max_new_tokens, **options)

    monkeypatch.setattr("taskarith.evaluation.measure.continue_greedily", spy)
    found = as_json(phi_tuned, "--reference", phi, "--benchmark", f"muse-books={muse}", "-o", tmp_path / "out")
    continuations = [r for r in records_of(tmp_path / "out") if r["kind"] == "continuation"]
    assert asked == [(128, 3), (32, 6)] * 2
    for text in ("verbmem", "knowmem_forget", "knowmem_retain"):
        mine = [r for r in continuations if (r["model"], r["text"]) == (str(phi_tuned), text)]
        assert [r["sample"] for r in mine] == ["0", "1", "2"]
        f1 = [rouge_l(r["reference"], r["continuation"]).f1 for r in mine]
        assert found["overall"][str(phi_tuned)][text]["value"] == pytest.approx(100 * sum(f1) / 3)
    assert "privleak" in found["overall"][str(phi_tuned)]
    assert [list(lacking) for lacking in found["missing"].values()] == [
        ["auc_gradient", "tpr"]
    ] * 2  # three samples of holdout
    (muse / "privleak/holdout.json").unlink()
    alone = as_json(phi, "--benchmark", f"muse-news={muse}", "--limit", 1)
    assert "holdout" in alone["missing"][str(phi)]["membership"]


def test_a_benchmark_stands_beside_texts_and_edits(phi, phi_tuned, tmp_path, book):
    tofu = layouts.write_tofu(tmp_path / "TOFU")
    small = ["--prompts", 1, "--prompt-tokens", 4, "--continuation-tokens", 4, "--limit", 1, "--apply-chat-template"]
    found = as_json(phi, "--negate", phi_tuned, "--benchmark", f"tofu={tofu}", "--data", f"book={book}", *small)
    assert found["models"] == [f"{phi} alpha=0", f"{phi} alpha=1"]
    assert set(found["texts"]) == {"book", "forget", "retain", "real_authors", "world_facts"}
    losses = [found["scores"][model]["forget"]["loss"]["value"] for model in found["models"]]
    assert losses[0] != losses[1]


@needs_it
def test_tasks_stand_alone_and_on_the_edited_model(phi, phi_tuned, tmp_path):
    folder = write_task(tmp_path / "tasks")
    more = ["--tasks", "mine", "--task-folder", folder, "-o", tmp_path / "out"]
    found = as_json(phi, "--negate", phi_tuned, "--alpha", "0,1", *more)
    for model in found["models"]:
        values = [r["values"]["acc"] for r in records_of(tmp_path / "out") if r["model"] == model]
        assert len(values) == len(ROWS)
        assert found["scores"][model]["mine"]["acc"]["value"] == sum(values) / len(ROWS)
    assert "lm-eval" in found["conventions"]["tasks"]
    again = as_json(tmp_path / "out", command="score")
    assert again["scores"] == found["scores"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--benchmark", "wmdp"], 2, "unknown benchmark 'wmdp'"),
        (["--benchmark", "tofu={tofu}", "--limit", "0"], 2, "--limit 0 is out of range"),
        (["--benchmark", "tofu={tofu}", "--data", "retain={book}"], 2, "and --data both have texts named retain"),
        (["--benchmark", "tofu={tofu}-gone"], 1, "is not a folder"),
        (["--benchmark", "tofu:forget01={tofu}"], 1, "does not contain forget01_perturbed.json"),
        (["--data", "a={book}", "--limit", "3"], 2, "--limit applies only to a benchmark or tasks"),
        (
            ["--data", "a={book}", "--apply-chat-template"],
            2,
            "--apply-chat-template has no effect, since no data are chats",
        ),
        (["--data", "a={book}", "--task-folder", "{tofu}"], 2, "a task folder is given without tasks"),
        (["--tasks", "mine", "--task-folder", "{tofu}-gone"], 2, "there is no task folder"),
        (["--tasks", "a,,b"], 2, "cannot read the tasks 'a,,b'"),
        ([], 2, "no data is given"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(arguments, code, message, phi, tmp_path, book):
    tofu = layouts.write_tofu(tmp_path / "TOFU")
    result = run(phi, *(a.format(tofu=tofu, book=book) for a in arguments), "-o", tmp_path / "out")
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert [line[:7] for line in result.stderr.splitlines()] == ["error: ", "hint:  "]
    assert not (tmp_path / "out").exists()
