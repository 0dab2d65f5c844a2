"""Every way in which files of strangers come into taskarith, each with its sound files and how they are damaged."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
import typer

from benchmarks.robustness import sound
from benchmarks.robustness.damage import PATCH, changed, damage
from benchmarks.robustness.resumed import (
    damage_partial,
    damage_training,
    prepare_partial,
    prepare_training,
    read_partial,
    read_training,
)
from benchmarks.robustness.runner import Reader
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.header import read_header
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.cli.config import load_config, use_config
from taskarith.cli.main import app
from taskarith.data.load import load_data
from taskarith.edit.apply import apply
from taskarith.edit.recipe import parse_recipe
from taskarith.edit.undo import undo
from taskarith.errors import TaskarithError
from taskarith.evaluation.benchmarks import load_benchmark
from taskarith.evaluation.models import open_model
from taskarith.evaluation.score import score
from taskarith.inspection.inspect import inspect
from taskarith.inspection.verify import verify
from taskarith.merging.methods import parse_method
from taskarith.progress import SILENT
from taskarith.spec import (
    parse_alphas,
    parse_benchmark,
    parse_combination,
    parse_data,
    parse_model,
    parse_named_data,
    parse_operand,
    parse_scales,
    parse_size,
)
from taskarith.sweeps.optuna_search import finished_trials, load_optuna, open_study

__all__ = ["READERS"]

# --- models ----------------------------------------------------------------------------------------------------------


def _prepare_header(folder: Path) -> None:
    sound.make_model(folder / "base")
    shutil.copyfile(folder / "base/model.safetensors", folder / "m.safetensors")


def _read_header(folder: Path) -> None:
    header = read_header(folder / "m.safetensors")
    with TensorReader() as reader:
        for tensor in header.tensors:
            reader.fingerprint(tensor)
    inspect(folder / "m.safetensors")


def _prepare_index(folder: Path) -> None:
    sound.make_model(folder / "m", shards=3)


def _read_model(folder: Path) -> None:
    checkpoint = open_checkpoint(folder / "m")
    with TensorReader() as reader:
        for tensor in checkpoint.tensors.values():
            reader.fingerprint(tensor)


_SIDECARS = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def _prepare_config(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_model(folder / "tuned", seed=1)
    for name in ("base", "tuned"):
        (folder / name / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m }}{% endfor %}", encoding="utf-8"
        )
    quantization = {
        "quant_method": "fp8",
        "weight_block_size": [4, 4],
        "scale_fmt": None,
        "activation_scheme": "dynamic",
    }
    sound.make_float8(folder / "float8", quantization_config=quantization)


def _read_config(folder: Path) -> None:
    if changed(folder, "base/config.json").parent.name == "float8":
        apply(str(folder / "float8"), alpha=0, output_dir=folder / "out")
        return
    own, tuned = str(folder / "base"), str(folder / "tuned")
    if changed(folder, "base/config.json").parent.name == "tuned":
        _each(
            lambda: apply(own, add=[f"{tuned}@@{own}"], output_dir=folder / "out"),
            lambda: apply(own, add=[f"{tuned}@@{own}"], output_dir=folder / "o2", tokenizer=tuned, chat_template=tuned),
        )
        return
    apply(own, add=[f"{folder / 'tuned'}@@{own}"], output_dir=folder / "out", tokenizer=own, chat_template=own)


_LOADED = ("base/config.json", "base/tokenizer.json", "base/tokenizer_config.json", "base/generation_config.json")


def _prepare_loaded(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_adapter(folder / "adapter")
    ends = {"eos_token_id": [1, 2], "do_sample": False}
    (folder / "base/generation_config.json").write_text(json.dumps(ends), encoding="utf-8")


def _read_loaded(folder: Path) -> None:
    """Load a model as ``eval`` does."""
    open_model(str(changed(folder, _LOADED[0]).parent), torch.device("cpu"), None, SILENT).model  # noqa: B018  (it is loaded)


def _read_gguf(folder: Path) -> None:
    resolve_model(str(folder / "m.gguf"))


# --- vectors ---------------------------------------------------------------------------------------------------------


def _prepare_adapter(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_adapter(folder / "adapter")


def _read_adapter(folder: Path) -> None:
    inspect(folder / "adapter")
    apply(str(folder / "base"), add=[f"{folder / 'adapter'}@@{folder / 'base'}"], output_dir=folder / "out")


_FORMS = tuple(f"{name}.safetensors" for name in ("dense", "exact", "sparse", "rows", "eight", "one"))


def _read_vector(folder: Path) -> None:
    path = changed(folder, _FORMS[0])
    _each(
        lambda: verify(path),
        lambda: inspect(path),
        lambda: apply(str(folder / "base"), add=[str(path)], output_dir=folder / "out"),
    )


def _prepare_weights(folder: Path) -> None:
    sound.make_vectors(folder)
    sound.make_weights(folder / "dense.safetensors", folder / "weights.safetensors")


def _read_weights(folder: Path) -> None:
    inspect(folder / "weights.safetensors")
    vector, weights = str(folder / "dense.safetensors"), str(folder / "weights.safetensors")
    apply(
        str(folder / "base"), negate=[vector], weights=weights, method=parse_method("perta"), output_dir=folder / "out"
    )


# --- edits -----------------------------------------------------------------------------------------------------------


def _read_record(folder: Path) -> None:
    _each(
        lambda: verify(folder / "edited"),
        lambda: inspect(folder / "edited"),
        lambda: undo(folder / "edited", folder / "out"),
        lambda: parse_recipe(load_config(folder / "edited/taskarith.json")),
    )


def _read_undo(folder: Path) -> None:
    undo(folder / "edited", folder / "out")


def _read_recipe(folder: Path) -> None:
    path = changed(folder, "recipe.yaml")
    recipe = parse_recipe(load_config(path))
    recipe.edit()
    use_config(_context("apply"), path, dict(recipe.options))


def _prepare_recipe(folder: Path) -> None:
    sound.make_model(folder / "base")
    sound.make_model(folder / "tuned", seed=1)
    for name, text in sound.RECIPES.items():
        placed = text.replace("base", str(folder / "base")) if name != "recipe.yaml" else text
        (folder / name).write_text(placed.replace(f"{folder / 'base'}_model", "base_model"), encoding="utf-8")


def _read_settings(folder: Path) -> None:
    use_config(_context("finetune"), folder / "finetune.yaml", load_config(folder / "finetune.yaml"))


def _context(command: str) -> typer.Context:
    return typer.Context(_commands()[command])


@functools.cache
def _commands() -> dict[str, Any]:
    return typer.main.get_command(app).commands  # ty: ignore[unresolved-attribute]


# --- data ------------------------------------------------------------------------------------------------------------

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
    for name, (parse, _) in _SPECS.items():
        path = folder / f"{name}.spec"
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


# --- results ---------------------------------------------------------------------------------------------------------


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


def _each(*calls: Callable[[], Any]) -> None:
    """Make all calls, and then raise the first of our own errors, if any."""
    errors = []
    for call in calls:
        try:
            call()
        except TaskarithError as error:
            errors.append(error)
    if errors:
        raise errors[0]


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("header", _prepare_header, damage("m.safetensors"), _read_header),
        Reader("index", _prepare_index, damage("m/model.safetensors.index.json"), _read_model),
        Reader(
            "config",
            _prepare_config,
            damage(*(f"{m}/{n}" for m in ("base", "tuned") for n in _SIDECARS), "float8/config.json"),
            _read_config,
        ),
        Reader("models", _prepare_loaded, damage(*_LOADED, "adapter/adapter_config.json"), _read_loaded),
        Reader("gguf", lambda folder: sound.make_gguf(folder / "m.gguf"), damage("m.gguf"), _read_gguf, seconds=2),
        Reader(
            "adapter",
            _prepare_adapter,
            damage("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
            _read_adapter,
        ),
        Reader("vectors", sound.make_vectors, damage(*_FORMS), _read_vector),
        Reader("weights", _prepare_weights, damage("weights.safetensors"), _read_weights),
        Reader("record", sound.make_edit, damage("edited/taskarith.json"), _read_record),
        Reader("undo", sound.make_edit, damage(PATCH), _read_undo),
        Reader("storage", _prepare_storage, damage(*_STORAGES), _read_storage),
        Reader("partial", prepare_partial, damage_partial, read_partial),
        Reader("training", prepare_training, damage_training, read_training, seconds=5),
        Reader("recipe", _prepare_recipe, damage("recipe.yaml", "mergekit.yaml", "slices.yaml"), _read_recipe),
        Reader("settings", _prepare_recipe, damage("finetune.yaml"), _read_settings),
        Reader("specs", _prepare_specs, damage(*(f"{name}.spec" for name in _SPECS)), _read_specs),
        Reader("data", _prepare_data, damage(*_DATA), _read_data),
        Reader("benchmarks", _prepare_benchmark, damage(*_PARTS), _read_benchmark),
        Reader(
            "records",
            lambda folder: sound.make_records(folder / "records.jsonl"),
            damage("records.jsonl"),
            lambda folder: score([folder / "records.jsonl"], retain="retain"),
        ),
        Reader(
            "tofu",
            sound.make_tofu,
            damage("eval_log_forget.json"),
            lambda folder: score([folder]),
        ),
    )
}
