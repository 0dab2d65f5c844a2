"""Benchmarks by name: their public layouts, what is asked of a model, and its answers."""

from __future__ import annotations

import json

import layouts
import pyarrow
import pyarrow.parquet
import pytest
from benchmark_data import load

from taskarith.data.spec import BenchmarkRef, parse_benchmark
from taskarith.errors import DataError, TaskarithError, UsageError
from taskarith.evaluation.benchmarks import fingerprint_parts


def test_a_name_a_split_and_a_folder_are_read():
    assert parse_benchmark("tofu") == BenchmarkRef("tofu", "forget10", None)
    assert str(parse_benchmark("tofu:forget05=a=b")) == "tofu:forget05=a=b"
    assert str(parse_benchmark("muse-news=copy")) == "muse-news=copy"
    for wrong in ("", "wmdp", "tofu:", "tofu:forget50", "muse-books:forget10", "tofu=", "TOFU"):
        with pytest.raises(UsageError, match="unknown benchmark"):
            parse_benchmark(wrong)


def test_tofu_in_its_own_layout(tofu):
    parts = load(f"tofu={tofu}")
    assert list(parts) == ["forget", "retain", "real_authors", "world_facts"]
    rows = [json.loads(line) for line in (tofu / "forget10_perturbed.json").read_text().splitlines()]
    first = parts["forget"].items[0]
    assert (first.prompt, first.tag) == (f"Question: {rows[0]['question']}\n", "Answer: ")
    assert (first.id, first.text, first.paraphrased) == ("0", rows[0]["answer"], rows[0]["paraphrased_answer"])
    assert first.perturbed == tuple(rows[0]["perturbed_answer"])
    assert [part.new_tokens for part in parts.values()] == [200] * 4
    assert {item.paraphrased for item in parts["world_facts"].items} == {""}
    assert [len(part.items) for part in load(f"tofu={tofu}", 3).values()] == [3] * 4
    assert load(f"tofu={tofu}", 3)["forget"].of == 4


def test_the_holdout_of_tofu_is_read_where_it_is(tmp_path):
    parts = load(f"tofu={layouts.write_tofu(tmp_path / 'T', holdout=True)}")
    assert parts["holdout"].is_scored
    assert parts["holdout"].new_tokens == 0
    assert parts["holdout"].items[0].perturbed == ()


def test_muse_in_its_own_layout(muse):
    parts = load(f"muse-books={muse}")
    assert list(parts) == ["verbmem", "knowmem_forget", "knowmem_retain", "forget", "holdout"]
    assert [part.new_tokens for part in parts.values()] == [128, 32, 32, 0, 0]
    solved = json.loads((muse / "knowmem/retain_qa_icl.json").read_text())
    asked = json.loads((muse / "knowmem/retain_qa.json").read_text())
    assert parts["knowmem_retain"].items[1].prompt == (
        f"Question: {solved[0]['question']}\nAnswer: {solved[0]['answer']}\n\n"
        f"Question: {solved[1]['question']}\nAnswer: {solved[1]['answer']}\n\n"
        f"Question: {asked[1]['question']}\nAnswer: "
    )
    assert parts["holdout"].items[2].text == json.loads((muse / "privleak/holdout.json").read_text())[2]
    (muse / "privleak/holdout.json").unlink()
    assert "holdout" not in load(f"muse-news={muse}")


def test_every_file_format_gives_the_same_benchmark(tofu, muse):
    whole = {name: fingerprint_parts(list(load(spec).values())) for name, spec in _specs(tofu, muse).items()}
    for path in (tofu / "retain_perturbed.json", muse / "knowmem/forget_qa.json"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = rows[0] if isinstance(rows[0], list) else rows
        half = len(rows) // 2  # as the hub keeps it, in shards
        for number, part in enumerate((rows[:half], rows[half:])):
            shard = path.with_name(f"{path.stem}-0000{number}-of-00002.parquet")
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(part), shard)
        path.unlink()
    assert {n: fingerprint_parts(list(load(s).values())) for n, s in _specs(tofu, muse).items()} == whole
    layouts.write_lines(tofu / "retain_perturbed.json", layouts.questions(2, 4, perturbed=2))
    assert fingerprint_parts(list(load(f"tofu={tofu}").values()))["retain"] != whole["tofu"]["retain"]


def _specs(tofu, muse):
    return {"tofu": f"tofu={tofu}", "muse": f"muse-news={muse}"}


def test_the_hub_is_asked_for_the_published_names(monkeypatch):
    asked = []

    def read_hub(reference):
        asked.append(str(reference))
        row = {"question": "q", "answer": "a", "paraphrased_answer": "p", "perturbed_answer": ["w"]}
        return [row | {"prompt": "x", "gt": "y", "text": "z"}]

    monkeypatch.setattr("taskarith.evaluation.benchmarks.read_hub", read_hub)
    load("tofu:forget05")
    assert asked == [
        f"locuslab/TOFU:{name}:train"
        for name in (
            "forget05_perturbed",
            "retain_perturbed",
            "real_authors_perturbed",
            "world_facts_perturbed",
            "holdout05",
        )
    ]
    asked.clear()
    load("muse-books")
    assert {name.split(":", 1)[0] for name in asked} == {"muse-bench/MUSE-Books"}
    assert sorted(name.split(":", 1)[1] for name in asked) == [
        "knowmem:forget_qa",
        "knowmem:forget_qa_icl",
        "knowmem:retain_qa",
        "knowmem:retain_qa_icl",
        "privleak:forget",
        "privleak:holdout",
        "verbmem:forget",
    ]


def _drop(column):
    def change(rows):
        for row in rows:
            row.pop(column)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("perturbed_answer"), "lacks the columns perturbed_answer; it has question, answer, paraphrased_answer"),
        (_drop("paraphrased_answer"), "lacks the columns paraphrased_answer"),
        (lambda rows: rows.clear(), "is empty"),
        (lambda rows: rows[2].update(answer=" "), "answer of row 2 of .* is empty or not a string"),
        (lambda rows: rows[1].update(perturbed_answer=[]), "perturbed_answer of row 1 of .* is not a list of strings"),
        (lambda rows: rows[1].update(perturbed_answer=["a", None]), "perturbed_answer of row 1"),
        (lambda rows: [row.update(index=number // 2) for number, row in enumerate(rows)], "repeats the index 0, 1"),
        (lambda rows: rows[3].pop("question"), "question of row 3 of .* is empty or not a string"),
    ],
)
def test_faults_in_the_data_name_file_and_place(tofu, change, message):
    path = tofu / "forget10_perturbed.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    layouts.write_lines(path, rows)
    with pytest.raises(DataError, match=message) as caught:
        load(f"tofu={tofu}")
    assert "forget10_perturbed.json" in caught.value.message


def test_what_is_not_there_is_named(tofu, tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        load(f"tofu={tmp_path / 'gone'}")
    with pytest.raises(DataError, match=r"does not contain forget01_perturbed.json"):
        load(f"tofu:forget01={tofu}")


def test_errors_are_taskariths_own(tofu):
    (tofu / "retain_perturbed.json").write_text("{", encoding="utf-8")
    with pytest.raises(TaskarithError, match="is not JSON"):
        load(f"tofu={tofu}")
