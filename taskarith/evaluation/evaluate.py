"""The verb `evaluate`: models on texts, side by side, with a record of every sample."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import check_target, publish_folder
from taskarith.edit.memory import InMemoryEdit
from taskarith.errors import UsageError
from taskarith.evaluation.measure import Questions, Settings, ask, measure
from taskarith.evaluation.models import Loaded, free_memory, model_record, open_model, parse_dtype
from taskarith.evaluation.records import Evaluation, Record, scores_from_records
from taskarith.progress import SILENT, Listener
from taskarith.spec import parse_scales, plain_scales
from taskarith.training.data import load_data
from taskarith.training.precision import choose_device

__all__ = ["evaluate", "row_name"]


def evaluate(
    models: Sequence[str],
    data: Mapping[str, str],
    *,
    add: Sequence[str] = (),
    negate: Sequence[str] = (),
    alphas: Sequence[float] = (1.0,),
    scale: Mapping[str, Any] | Sequence[str] = (),
    block_size: int = 256,
    prompts: int = 16,
    prompt_tokens: int = 32,
    continuation_tokens: int = 64,
    batch_size: int | Literal["auto"] = "auto",
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 42,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    listener: Listener = SILENT,
) -> Evaluation:
    """Measure how well models know texts: losses, greedy continuations, and what they share with the texts.

    Each model is loaded once and freed before the next. With ``add`` or ``negate`` there is one model, edited in memory
    at each alpha without writing anything; its rows are named ``MODEL alpha=0.5``.

    :param models: Folders, hub ids, GGUF or PEFT adapter folders; the first is what others are compared with.
    :param data: Names of texts, and where they are, as in ``load_data``.
    :param add: Vectors to add in memory, as for ``apply``.
    :param negate: Vectors to subtract.
    :param alphas: What multiplies them.
    :param scale: What multiplies them tensor by tensor, as for ``apply``.
    :param block_size: Tokens of the blocks in which losses are measured; each block starts without context.
    :param prompts: Prompts per text; 0 measures losses only.
    :param prompt_tokens: Tokens of a prompt taken from a plain text.
    :param continuation_tokens: Tokens to generate at most, and of the reference.
    :param batch_size: Sequences at a time; ``auto`` begins large and halves it when memory is short.
    :param dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``. ``auto`` is the files' own, on a CPU float32.
    :param device: ``auto``, ``cpu``, ``cuda[:N]`` or ``mps``.
    :param seed: Of torch's generators; greedy decoding draws nothing.
    :param output_dir: Folder for ``results.json``, ``records.jsonl`` and ``taskarith.json``; None writes nothing.
    :param overwrite: Replace an existing output.
    :param trust_remote_code: Run the code that comes with a model.
    :param listener: Told about progress, precision and speed.
    :raises UsageError: A value is out of range, or options contradict each other.
    :raises DataError: A data set is missing, empty, or too short.
    :raises CheckpointError: A model is missing or broken, or gives a loss that is not finite.
    :raises MismatchError: A vector does not fit the model.
    """
    settings = Settings(block_size, prompts, prompt_tokens, continuation_tokens, batch_size)
    scales = plain_scales(parse_scales(scale))
    if scales and not (add or negate):
        raise UsageError("a scale is given without a vector", "Name a vector to add or to negate, or leave it out.")
    edit = {"add": list(add), "negate": list(negate), "alphas": list(alphas)} if add or negate else None
    edit = edit and edit | ({"scale": scales} if scales else {})
    _check(models, data, edit)
    if output_dir is not None:
        check_target(Path(output_dir), overwrite)
    place, precision = choose_device(device), parse_dtype(dtype)
    texts = {name: load_data(spec) for name, spec in data.items()}
    torch.manual_seed(seed)
    records: list[Record] = []
    origins: list[dict[str, Any]] = []
    first: Questions | None = None
    for number, name in enumerate(models):
        loaded = open_model(name, place, precision, listener, trust_remote_code=trust_remote_code)
        questions = ask(loaded, texts, settings)
        _remark(loaded, edit, listener)
        if first is not None and questions != first:
            listener.note(f"{name} tokenises these texts otherwise than {models[0]}: losses per token do not compare")
        first = first or questions
        for index, row in enumerate(_rows(loaded, edit)):
            step, steps = (number, len(models)) if edit is None else (index, len(alphas))
            records += _measure_aloud(loaded, questions, settings, row, (step, steps), listener)
        if output_dir is not None:
            origins.append(model_record(loaded))
        del loaded
        free_memory()
    rows = tuple(dict.fromkeys(record["model"] for record in records))
    evaluation = Evaluation(rows, tuple(data), scores_from_records(records), records)
    if output_dir is not None:
        provenance = {
            "kind": "evaluation",
            "models": origins,
            "edit": edit,
            "data": {name: {"spec": text.spec, "fingerprint": text.fingerprint} for name, text in texts.items()},
            "arguments": {**asdict(settings), "dtype": dtype, "device": str(place), "seed": seed},
        }
        _publish(evaluation, provenance, Path(output_dir), overwrite)
    return evaluation


def row_name(model: str, alpha: float) -> str:
    """Return the name of the row of a model edited in memory: ``MODEL alpha=0.5``."""
    short = f"{alpha:g}"
    return f"{model} alpha={short if float(short) == alpha else repr(alpha)}"


def _check(models: Sequence[str], data: Mapping[str, str], edit: Mapping[str, Any] | None) -> None:
    if not models:
        raise UsageError("no model is given", "Name one or more, as in: taskarith eval MODEL --data name=FILE")
    if not data:
        raise UsageError("no data is given", "Name one or more texts, as in --data forget=forget.txt")
    if len(set(models)) < len(models):
        raise UsageError("a model is given twice", "Name each model once.")
    if edit is None:
        return
    if len(models) > 1:
        raise UsageError(f"{len(models)} models and an edit are given", "Edit one model in memory at a time.")
    alphas = edit["alphas"]
    if not alphas or not all(map(math.isfinite, alphas)) or len(set(alphas)) < len(alphas):
        raise UsageError(f"cannot evaluate alphas {alphas}", "Give different finite numbers, as in 0,0.5,1")


def _rows(loaded: Loaded, edit: Mapping[str, Any] | None) -> Iterator[str]:
    """Give the names of a model's rows; while one is looked at, the model is as it says."""
    if edit is None:
        yield loaded.name
        return
    if loaded.adapter is not None:
        raise UsageError(
            f"{loaded.name} is an adapter, which cannot be edited in memory",
            f"Name its base as the model and add the adapter: --add {loaded.name}",
        )
    base, scale = str(loaded.resolved.path), edit.get("scale", {})
    with InMemoryEdit(loaded.model, base, edit["add"], edit["negate"], scale=scale) as memory:
        for alpha in edit["alphas"]:
            memory.set(alpha)
            yield row_name(loaded.name, alpha)


def _measure_aloud(
    loaded: Loaded, questions: Questions, settings: Settings, row: str, step: tuple[int, int], listener: Listener
) -> list[Record]:
    """Measure one row, the first number of ``step`` being that of the rows before it, the second that of all."""
    start = time.perf_counter()

    def on_share(share: float) -> None:
        listener.progress(f"evaluating | {row}", step[0] + share, step[1])

    records = measure(loaded, questions, settings, row, on_share)
    on_share(1.0)
    seconds, tokens = time.perf_counter() - start, questions.cost(settings.continuation_tokens)
    listener.note(f"{row}: {tokens:,} tokens in {seconds:.1f} s ({tokens / seconds:,.0f} a second)")
    return records


def _remark(loaded: Loaded, edit: Mapping[str, Any] | None, listener: Listener) -> None:
    """Say where the model is evaluated, and in which dtype if it is not that of its files."""
    used, stored = (str(dtype).removeprefix("torch.") for dtype in (loaded.model.dtype, loaded.stored_dtype))
    if used == stored:
        listener.note(f"{loaded.name}: on {loaded.model.device} in {used}")
        return
    rounding = f"; an edit written by apply is rounded to {stored}" if edit else ""
    listener.note(f"{loaded.name}: on {loaded.model.device} in {used}, though its files are {stored}{rounding}")


def _publish(evaluation: Evaluation, provenance: Mapping[str, Any], target: Path, overwrite: bool) -> None:
    with publish_folder(target, overwrite) as folder:
        results = json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / "results.json").write_text(results + "\n", encoding="utf-8")
        with (folder / "records.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            for record in evaluation.records:
                file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        write_provenance(folder, provenance)
