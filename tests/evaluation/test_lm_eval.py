"""Tasks of lm-eval on a model in memory; where lm-eval is not installed, only that it is asked for."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import pytest
import tiny
import torch
from lm_eval_tasks import INSTALLED, ROWS, needs_it, write_task
from transformers import AutoModelForCausalLM

from benchmarks.architectures.population import build
from taskarith.errors import DataError, UsageError
from taskarith.evaluation.grouping import takes_padding
from taskarith.evaluation.lm_eval import find_tasks, run_tasks
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.numbers import of_text
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.records import task_score_record


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny.save_model(tmp_path_factory.mktemp("model") / "m", "llama", seed=5)  # a tied head
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def likeliest(model, row):
    """The choice with the largest log-likelihood after the question, by transformers."""
    tokenizer = tiny.tokenizer()
    totals = []
    for choice in row["choices"]:
        start = len(tokenizer(row["question"]).input_ids)
        ids = torch.tensor([tokenizer(f"{row['question']} {choice}").input_ids])
        with torch.no_grad():
            shares = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        totals.append(float(shares.gather(-1, ids[0, 1:, None])[start - 1 :].sum()))
    return totals.index(max(totals))


def run(model, folder, limit=None):
    loaded = SimpleNamespace(model=model, tokenizer=tiny.tokenizer())
    measurement = Measurement(16, 0, 1, 1, "auto", limit)
    return run_tasks(loaded, find_tasks(["mine"], folder), "m", measurement)


@needs_it
def test_a_task_is_scored_on_the_model_as_it_is(model, tmp_path, capsys):
    records = run(model, write_task(tmp_path / "tasks"))
    right = [float(likeliest(model, row) == row["answer"]) for row in ROWS]
    assert records == [
        {"kind": "task", "model": "m", "text": "mine", "sample": str(number), "values": {"acc": value}}
        for number, value in enumerate(right)
    ]
    (sheet,) = arrange(records, "here")
    assert of_text(sheet, "mine")[0]["acc"].value == sum(right) / 4
    assert capsys.readouterr() == ("", "")
    with torch.no_grad():
        before = model.lm_head.weight.clone()
        model.lm_head.weight.neg_()  # an edit in memory, of the embedding too
        edited = run(model, tmp_path / "tasks", limit=3)
        expected = [float(likeliest(model, row) == row["answer"]) for row in ROWS[:3]]
        model.lm_head.weight.copy_(before)
    assert [record["values"]["acc"] for record in edited] == expected


def test_what_is_no_mean_over_samples_keeps_lm_evals_standard_error():
    record = task_score_record("m", "wikitext", "word_perplexity", 20.0, 0.5, 62)
    (sheet,) = arrange([record], "here")
    number = of_text(sheet, "wikitext")[0]["word_perplexity"]
    assert (number.value, number.n) == (20.0, 62)
    assert (number.low, number.high) == pytest.approx((20 - 0.98, 20 + 0.98), abs=1e-4)
    for fault in ({"value": math.nan}, {"stderr": math.inf}, {"samples": 0}):
        with pytest.raises(DataError, match="task_score has no"):
            arrange([record | fault], "here")
    with pytest.raises(DataError, match="task has no finite values"):
        arrange([{"kind": "task", "model": "m", "text": "t", "sample": "0", "values": {"acc": math.nan}}], "here")


@needs_it
@pytest.mark.parametrize(("name", "most"), [("llama", 4), ("recurrent_gemma", 1)])
def test_prompts_that_a_model_does_not_take_together_are_continued_one_by_one(name, most, tmp_path, monkeypatch):
    config = build(name).config
    config.vocab_size = tiny.VOCABULARY
    model = AutoModelForCausalLM.from_config(config).eval()
    match = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    how = {"until": ["."], "max_gen_toks": 3, "do_sample": False}
    options = {"output_type": "generate_until", "generation_kwargs": how, "metric_list": [match]}
    folder = write_task(tmp_path / "tasks", **options, doc_to_target="{{choices[0]}}", doc_to_choice=None)
    takes_padding(model)  # known from here on
    sizes, generate = [], model.generate

    def seen(input_ids, **options):
        sizes.append(len(input_ids))
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "generate", seen)
    assert len(run(model, folder)) == 4
    assert max(sizes) == most


@needs_it
def test_what_lm_eval_cannot_do_is_an_error_of_ours(model, tmp_path, monkeypatch):
    from lm_eval import tasks

    own_alone = functools.partial(tasks.TaskManager, include_defaults=False)  # its own 14,000 files take half a minute
    monkeypatch.setattr(tasks, "TaskManager", lambda include_path, **_: own_alone(include_path=include_path))
    with pytest.raises(UsageError, match="does not have the tasks other"):
        find_tasks(["mine", "other"], write_task(tmp_path / "tasks"))
    (tmp_path / "tasks" / "mine.jsonl").unlink()
    with pytest.raises(DataError, match="lm-eval cannot run mine on m"):
        run(model, tmp_path / "tasks")


def test_names_and_folder_are_checked_first(tmp_path):
    with pytest.raises(UsageError, match="there is no task folder"):
        find_tasks(["mine"], tmp_path / "gone")
    for names in (["a", "a"], ["a", ""]):
        with pytest.raises(UsageError, match="cannot read the tasks"):
            find_tasks(names, None)


@pytest.mark.skipif(INSTALLED, reason="lm-eval is installed")
def test_without_lm_eval_the_extra_is_named():
    with pytest.raises(UsageError, match="needs lm-eval") as caught:
        find_tasks(["piqa"], None)
    assert "taskarith[lm-eval]" in caught.value.hint
