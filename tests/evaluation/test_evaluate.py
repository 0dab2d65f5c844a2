"""Evaluation: its numbers are the model's own, whatever the batch, and follow from the records alone."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import tiny
from evaluating import SMALL, Notes, load, own_scores, scores_of, values
from transformers import AutoTokenizer

from taskarith.checkpoints.provenance import read_provenance
from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.errors import CheckpointError, DataError, TaskarithError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.metrics.rouge import rouge_l
from taskarith.evaluation.score import score as score_stored
from taskarith.report.scores import score_tables
from taskarith.report.tables import short_names


@pytest.fixture(scope="module")
def published(phi, phi_tuned, texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval") / "out"
    notes = Notes()
    return evaluate([str(phi), str(phi_tuned)], texts, **SMALL, output_dir=folder, listener=notes), folder, notes


def test_all_numbers_follow_from_the_records_alone(published):
    evaluation, folder, _ = published
    with (folder / "records.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    assert records == evaluation.records
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results == json.loads(json.dumps(evaluation.scores.to_json()))
    assert score_stored([folder]) == evaluation.scores
    random.Random(0).shuffle(records)
    again = scores_of(*records)
    assert (again.by_text, again.overall) == (evaluation.scores.by_text, evaluation.scores.overall)
    for line in records:
        if line["kind"] == "continuation":
            rouge = rouge_l(line["reference"], line["continuation"])
            assert (line["rouge_l_f1"], line["rouge_l_recall"]) == (rouge.f1, rouge.recall)


def test_scores_are_those_of_each_model_and_text_alone(published, phi_tuned, texts):
    evaluation, _, _ = published
    alone = values(evaluate([str(phi_tuned)], {"two": texts["two"]}, **SMALL, batch_size=1), str(phi_tuned), "two")
    together = values(evaluation, str(phi_tuned), "two")
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, abs=2e-4 if name == "perplexity" else 1e-5), name


def test_loss_of_a_text_is_the_token_mean_over_its_blocks(published, phi, texts):
    evaluation, _, _ = published
    model, tokenizer = load(phi), AutoTokenizer.from_pretrained(phi)
    own = [own_scores(model, sample) for sample in tokenize(load_data(texts["one"]), tokenizer, 48)]
    found, tokens = values(evaluation, str(phi), "one"), sum(tokens for _, tokens, _ in own)
    assert found["loss"] == pytest.approx(sum(nll for nll, _, _ in own) / tokens, abs=1e-5)
    assert found["accuracy"] == sum(correct for _, _, correct in own) / tokens


def test_a_second_run_writes_the_same_bytes(published, phi, phi_tuned, texts, tmp_path):
    _, folder, _ = published
    evaluate([str(phi), str(phi_tuned)], texts, **SMALL, output_dir=tmp_path / "again")
    for name in ("results.json", "records.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_provenance_names_models_data_and_arguments(published, phi, texts):
    _, folder, notes = published
    written = read_provenance(folder)
    assert written["models"][0]["name"] == str(phi)
    assert written["models"][0]["dtype"] == "float32"
    assert len(written["models"][1]["fingerprint"]) == 32
    one = written["data"]["one"]
    assert (folder / one["spec"]).resolve() == Path(texts["one"])
    assert one["fingerprint"] == load_data(texts["one"]).fingerprint
    assert written["arguments"]["prompt_tokens"] == 8
    assert written["edit"] is None
    assert notes.shares == sorted(notes.shares)
    assert notes.shares[-1] == 1.0


def test_tables_are_compact_first_and_then_complete(published, phi, phi_tuned):
    evaluation, _, _ = published
    tables, beside = score_tables(evaluation.scores), f"; KL and agreement against {phi.name}"
    assert [table.title for table in tables] == [
        "one: 4 samples, 3 prompts", f"one: memorisation{beside}",
        "two: 2 samples, 3 prompts", f"two: memorisation{beside}",
    ]  # fmt: skip
    assert tables[0].columns[:4] == ("model", "loss", "perplexity", "top-1")
    loss = evaluation.scores.by_text[str(phi_tuned)]["one"]["loss"]
    assert tables[0].rows[1][:2] == (phi_tuned.name, f"{loss.value:.3f} [{loss.low:.3f}, {loss.high:.3f}]")
    assert tables[1].columns[3:] == ("KL", "agreement")
    assert tables[1].rows[0][3:] == ("-", "-")
    assert short_names(["a/base", "b/SmolLM2-135M-Instruct alpha=0.5"])["b/SmolLM2-135M-Instruct alpha=0.5"] == (
        "SmolLM2-\N{HORIZONTAL ELLIPSIS}alpha=0.5"
    )
    assert short_names(["a/base", "b/base"]) == {"a/base": "a/base", "b/base": "b/base"}


def test_without_prompts_there_are_losses_only(phi, texts):
    evaluation = evaluate([str(phi)], texts, block_size=48, prompts=0)
    names = {"loss", "perplexity", "accuracy", "exact_memorisation", "extraction_strength"}
    assert values(evaluation, str(phi), "one").keys() == names
    assert score_tables(evaluation.scores)[0].columns == ("model", "loss", "perplexity", "top-1")


@pytest.mark.parametrize("words", [["ver", "ter", "ne", "op"], ["keeper"]])  # other numbers of blocks, and the same
def test_a_retain_model_that_cuts_texts_otherwise_is_a_named_gap(phi, texts, tmp_path, words):
    other, notes = tiny.save_model(tmp_path / "other"), Notes()
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(words)
    tokenizer.save_pretrained(other)
    named = {"forget": texts["one"], "holdout": texts["two"]}
    found = evaluate([str(phi)], named, **SMALL, reference=str(other), listener=notes)
    assert f"{phi} tokenises these texts differently from {other}: losses per token are not comparable" in notes.notes
    assert "cannot be calculated" in found.scores.missing[str(phi)]["privleak"]
    assert "other" in found.scores.missing[str(phi)]["auc_reference"]
    assert {"auc_loss", "auc_min_40"} <= found.scores.overall[str(phi)].keys()
    assert found.scores.models == (str(phi), str(other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "no model is given"),
        ({"data": {}}, "no data is given"),
        ({"models": ["{phi}", "{phi}"]}, "a model is given twice"),
        ({"reference": "{phi}"}, "is given twice"),
        ({"prompts": -1}, "--prompts -1 is out of range"),
        ({"prompt_tokens": 0}, "--prompt-tokens 0"),
        ({"continuation_tokens": 0}, "--continuation-tokens 0"),
        ({"block_size": 1}, "--block-size 1 is out of range"),
        ({"block_size": 257}, "--block-size 257 exceeds the 256 positions"),
        (
            {"prompt_tokens": 8, "continuation_tokens": 249, "data": {"book": "{book}"}},
            "continuations exceed the 256 positions",
        ),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": "many"}, "--batch-size many"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
        ({"device": "tpu"}, "tpu"),
        ({"models": ["{phi}", "other"], "negate": ["{tuned}"]}, "2 models and an edit"),
        ({"negate": ["{tuned}"], "alphas": [0.5, 0.5]}, "cannot evaluate alphas"),
        ({"negate": ["{tuned}"], "alphas": [math.nan]}, "cannot evaluate alphas"),
        ({"negate": ["{tuned}"], "alphas": []}, "cannot evaluate alphas"),
    ],
)
def test_wrong_calls_are_refused(change, message, phi, phi_tuned, texts, book):
    def fill(value):
        if isinstance(value, list):
            return [fill(item) for item in value]
        if isinstance(value, dict):
            return {key: fill(item) for key, item in value.items()}
        return value.format(phi=phi, tuned=phi_tuned, book=book) if isinstance(value, str) else value

    call = {"models": [str(phi)], "data": texts, **SMALL, **{key: fill(value) for key, value in change.items()}}
    with pytest.raises(UsageError) as caught:
        evaluate(call.pop("models"), call.pop("data"), **call)
    assert message in caught.value.message
    assert caught.value.hint


def test_missing_and_empty_inputs_are_named(phi, texts, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("  \n")
    with pytest.raises(DataError, match=r"empty\.txt"):
        evaluate([str(phi)], {"empty": str(empty)}, **SMALL)
    with pytest.raises(DataError, match=r"absent\.txt"):
        evaluate([str(phi)], {"absent": str(tmp_path / "absent.txt")}, **SMALL)
    with pytest.raises(CheckpointError, match="nowhere"):
        evaluate([str(tmp_path / "nowhere")], texts, **SMALL)


def test_an_output_that_exists_is_refused_before_any_work(texts, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(TaskarithError, match="out already exists"):
        evaluate([str(tmp_path / "no-model")], texts, **SMALL, output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "kept"
