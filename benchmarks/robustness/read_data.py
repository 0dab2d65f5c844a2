"""Readers of data and results: specifications, data sets, benchmarks, records, trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from benchmarks.robustness import sound
from benchmarks.robustness.damage import changed, damage
from benchmarks.robustness.runner import Reader
from taskarith.data.load import load_data
from taskarith.data.spec import parse_benchmark, parse_data, parse_named_data
from taskarith.evaluation.benchmarks import load_benchmark
from taskarith.evaluation.read_records import read_tables
from taskarith.evaluation.score import score
from taskarith.spec import parse_alphas, parse_combination, parse_model, parse_operand, parse_scales, parse_size
from taskarith.sweeps.optuna_search import finished_trials, load_optuna, open_study

__all__ = ["DATA"]


_SPECS = {
    "model": (parse_model, "org/name@main"),
    "operand": (parse_operand, "runs/v.safetensors@@base:0.5"),
    "combination": (parse_combination, "a:0.6 - b:0.4 + c"),
    "alphas": (parse_alphas, "0:1:0.1"),
    "list": (parse_alphas, "0,0.5,1"),
    "data": (parse_data, "org/name:config:split:column"),
    "benchmark": (parse_benchmark, "tofu:forget10=folder"),
    "size": (parse_size, "5GB"),
    "scales": (lambda text: parse_scales([text]), "layers.0-11=0..0.5..1"),
    "named": (lambda text: parse_named_data([text]), "forget=file.txt:text"),
}


def _prepare_specs(folder: Path) -> None:
    for name, (_, text) in _SPECS.items():
        (folder / f"{name}.spec").write_text(text, encoding="utf-8")


def _read_specs(folder: Path) -> None:
    path = changed(folder, "model.spec")
    parse, _ = _SPECS[path.stem]
    if path.is_file() and not path.is_symlink():
        parse(path.read_bytes().decode("utf-8", "surrogateescape"))


_ROWS: tuple[dict[str, Any], ...] = (
    {"text": "The keeper lit the lantern."},
    {"prompt": "Who?", "completion": " The keeper."},
    {"question": "Who?", "answer": "The keeper."},
    {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}], "tools": []},
    {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]},
)
_DATA = ("a.txt", "a.csv", "a.tsv", "a.json", "a.parquet", *(f"{number}.jsonl" for number in range(len(_ROWS))))


def _prepare_data(folder: Path) -> None:
    (folder / "a.txt").write_text("The keeper lit the lantern.\nThen he went.\n", encoding="utf-8")
    (folder / "a.csv").write_text('question,answer\nWho?,"The keeper, he said"\nWhen?,Now\n', encoding="utf-8")
    (folder / "a.tsv").write_text("text\tnumber\nThe keeper\t1\nThe lantern\t2\n", encoding="utf-8")
    (folder / "a.json").write_text(json.dumps([_ROWS[1]] * 3), encoding="utf-8")
    table = pyarrow.table({"text": ["The keeper lit the lantern.", "Then he went."], "n": [1, 2]})
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    for number, row in enumerate(_ROWS):
        (folder / f"{number}.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n", encoding="utf-8")


def _read_data(folder: Path) -> None:
    load_data(str(changed(folder, _DATA[0])))


_MUSE = ("verbmem/forget", "knowmem/forget_qa_icl", "knowmem/forget_qa", "knowmem/retain_qa_icl", "knowmem/retain_qa")
_PARTS = tuple(f"muse/{name}.json" for name in (*_MUSE, "privleak/forget"))


def _prepare_benchmark(folder: Path) -> None:
    for name in _PARTS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"prompt": "a", "gt": "b", "question": "Who?", "answer": "He.", "text": "c", "index": 0}
        path.write_text(json.dumps([row, row | {"index": 1}]), encoding="utf-8")


def _read_benchmark(folder: Path) -> None:
    load_benchmark(parse_benchmark(f"muse-news={folder / 'muse'}"))


_STORAGES = ("trials.log", "trials.db")


def _prepare_storage(folder: Path) -> None:
    optuna = load_optuna()
    for name in _STORAGES:
        study = open_study(optuna, _storage(folder / name), "study")
        for number in range(2):
            trial = study.ask({"1 v": optuna.distributions.FloatDistribution(0, 1)})
            trial.set_user_attr("losses", {"forget": {"forget": 1.0}, "keep": {"retain": 2.0}, "kl": 0.1})
            study.tell(trial, 0.5 + number)


def _read_storage(folder: Path) -> None:
    optuna = load_optuna()
    study = open_study(optuna, _storage(changed(folder, _STORAGES[0])), "study")
    finished_trials(optuna, study, ["1 v"])


def _storage(path: Path) -> str:
    return f"sqlite:///{path}" if path.suffix == ".db" else str(path)


DATA = (
    Reader("specs", _prepare_specs, damage(*(f"{name}.spec" for name in _SPECS)), _read_specs),
    Reader("data", _prepare_data, damage(*_DATA), _read_data),
    Reader("benchmarks", _prepare_benchmark, damage(*_PARTS), _read_benchmark),
    Reader(
        "records",
        lambda folder: sound.make_records(folder / "records.jsonl"),
        damage("records.jsonl"),
        lambda folder: score([folder / "records.jsonl"], reference="retain"),
        lambda folder: read_tables(folder / "records.jsonl"),
        share=20,
    ),
    Reader(
        "tofu",
        sound.make_tofu,
        damage("eval_log_forget.json"),
        lambda folder: score([folder]),
        read_tables,
        share=20,
    ),
    # a database takes a hundred times as long to open as a log, all of it in optuna
    Reader("storage", _prepare_storage, damage(*[_STORAGES[0]] * 24, _STORAGES[1]), _read_storage),
)
