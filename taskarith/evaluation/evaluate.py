"""The verb `evaluate`: measure models on texts side by side, with a record of every sample."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from taskarith.calls import listed, named, renamed
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.targets import check_apart
from taskarith.checkpoints.team import ALONE, launched_team
from taskarith.checkpoints.units import Units
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.data.spec import named_data, parse_benchmark
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import check_edit
from taskarith.edit.operands import named_paths
from taskarith.edit.recipe import Recipe
from taskarith.errors import UsageError, name_some
from taskarith.evaluation.benchmarks import Part, fingerprint_parts, load_benchmark
from taskarith.evaluation.edited import LazyEdit, edit_record, editable
from taskarith.evaluation.leakage import FORGET, HOLDOUT
from taskarith.evaluation.lm_eval import find_tasks
from taskarith.evaluation.measurement import MEASUREMENT, EvaluationKeywords, Measurement, with_keywords
from taskarith.evaluation.models import parse_dtype
from taskarith.evaluation.questions import Asked
from taskarith.evaluation.records import Record
from taskarith.evaluation.results import complete_results, kept_results, write_results
from taskarith.evaluation.run import Evaluation, Row, RowPlan, ask_models, measure_rows, row_name
from taskarith.models.device import choose_device
from taskarith.models.runtime import RUNTIME, Runtime
from taskarith.progress import SILENT, Listener
from taskarith.spec import parse_scales

__all__ = ["evaluate"]


@renamed(retain="reference")
def evaluate(
    models: str | Path | Sequence[str | Path],
    data: Mapping[str, str | Path] | str | Path | Sequence[str | Path],
    *,
    reference: str | Path | None = None,
    benchmark: str | None = None,
    tasks: str | Sequence[str] = (),
    task_folder: str | Path | None = None,
    add: str | Path | Sequence[str | Path] = (),
    negate: str | Path | Sequence[str | Path] = (),
    alphas: Sequence[float] = (1.0,),
    scale: Mapping[str, Any] | Sequence[str] = (),
    recipe: Recipe | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    launched: bool = False,
    draw: Callable[[Evaluation, Path], object] | None = None,
    measurement: Measurement = MEASUREMENT,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[EvaluationKeywords],
) -> Evaluation:
    """Measure how well models know texts, and how far they are from a reference.

    Each model is loaded once and freed before the next. With ``add`` or ``negate`` there is one model, edited in memory
    at each alpha without writing anything; its rows are named ``MODEL alpha=0.5``. Next-token distributions are
    compared with those of the reference model, or of the first row without one. ``score`` describes the meaning of text
    names.

    :param models: Folders, hub ids, GGUF or PEFT adapter folders.
    :param data: Names of texts and their specs, as in ``load_data``, or specs alone; may be empty with a benchmark or
        tasks.
    :param reference: A model that never saw the forget set: it gets a row, and forget quality, PrivLeak and other
        numbers compare with it.
    :param benchmark: ``tofu[:SPLIT][=FOLDER]``, ``muse-books[=FOLDER]`` or ``muse-news[=FOLDER]``, from the hub or a
        local copy; see ``load_benchmark``.
    :param tasks: lm-eval tasks; needs lm-eval.
    :param task_folder: Folder of additional lm-eval task files (YAML).
    :param add: Vectors to add in memory, as for ``apply``.
    :param negate: Vectors to subtract.
    :param alphas: Coefficients of all vectors, one row each.
    :param scale: Factors per tensor, as for ``apply``.
    :param recipe: A recipe of the edit instead of vectors; see ``parse_recipe``.
    :param output_dir: Folder for ``results.json``, ``records.jsonl`` and ``taskarith.json``; None writes nothing.
    :param overwrite: Replace an existing output.
    :param launched: All processes started by ``accelerate launch`` make this call and share the samples; the first
        writes, and all return the same numbers.
    :param draw: Draws the result into the folder before it is published.
    :param measurement: Block, prompt and batch sizes, chat template, draws, layers to read, and seed.
    :param runtime: Dtype and device of the models in memory.
    :param listener: Receives progress updates and notes on precision and speed.
    :param keywords: Fields of ``measurement`` and ``runtime`` by name, such as ``prompts=4``.
    :raises UsageError: A value is out of range, or options contradict each other.
    :raises DataError: A data set is missing, empty, or too short.
    :raises CheckpointError: A model is missing or broken, or gives a loss that is not finite.
    :raises MismatchError: A vector does not fit the model, or the reference model's tokenizer yields different samples.
    """
    measurement, runtime = with_keywords(keywords, measurement, runtime, EvaluationKeywords.__optional_keys__)
    models, data, tasks, reference = listed(models), named_data(data), listed(tasks), named(reference)
    add, negate = listed(add), listed(negate)
    if recipe is not None and (add or negate):
        raise UsageError("both a recipe and vectors are given", "Put the vectors into the recipe, or leave it out.")
    if parse_scales(scale) and not (add or negate):
        raise UsageError("a scale is given without a vector", "Give a vector to add or negate, or leave out the scale.")
    edit = recipe.edit() if recipe else Edit.from_options(add, negate, scale=scale) if add or negate else None
    edits = [] if edit is None else [replace(edit, alpha=alpha) for alpha in alphas]
    _check(models, reference, edits if edit else None)
    _check_questions(data, benchmark, tasks, task_folder, measurement)
    inputs = [
        *models,
        reference or "",
        task_folder or "",
        *data_paths(data.values()),
        *(named_paths(edit.operands) if edit else []),
    ]
    if benchmark:
        inputs.append(parse_benchmark(benchmark).folder or "")
    if output_dir is not None:
        check_target(Path(output_dir), overwrite, is_folder=True, inputs=inputs)
    team = launched_team() if launched else ALONE
    device, _ = choose_device(runtime.device), parse_dtype(runtime.dtype)
    found_tasks = find_tasks(tasks, Path(task_folder) if task_folder else None) if tasks else None
    texts = {name: load_data(spec, measurement.form) for name, spec in data.items()}
    check_form(measurement.form, texts.values(), beside=bool(tasks) or (benchmark or "").startswith("tofu"))
    parts = _load_benchmark(benchmark, measurement.limit, data, listener) if benchmark else []
    asked = ask_models(
        [*([reference] if reference else []), *models],
        texts,
        measurement,
        runtime,
        benchmark=parts,
        team=team,
        listener=listener,
    )
    read = team.by_first(lambda: check_edit(Path(editable(asked[-1].loaded)), edit, listener)) if edit else []
    if output_dir is not None:
        check_apart(Path(output_dir), inputs := [*inputs, *read])

    def record() -> dict[str, Any]:
        return {
            "kind": "evaluation",
            "models": [model.record() for model in asked],
            "edit": edit and edit_record(edit, alphas, add, negate, recipe),
            "data": {name: text.record() for name, text in texts.items()},
            "benchmark": {"spec": benchmark, "fingerprints": fingerprint_parts(parts)} if benchmark else None,
            "arguments": {
                **measurement.record(),
                "tasks": list(tasks),
                "task_folder": str(task_folder) if task_folder else None,
                "retain": reference,
                **runtime.record(device),
                "processes": team.size,
                "seed": measurement.seed,
            },
        }

    others = [path for path in read if Path(path).parent != asked[-1].loaded.resolved.path]
    with kept_results(output_dir, overwrite, record, inputs=inputs, read=others, team=team, listener=listener) as (
        folder,
        units,
        provenance,
    ):
        torch.manual_seed(measurement.seed)
        evaluation = measure_rows(
            asked,
            measurement,
            RowPlan(
                functools.partial(_rows, edits=edits, listener=listener),
                len(edits or models) + bool(reference),
                reference,
                edited=edit is not None,
            ),
            tasks=found_tasks,
            team=team,
            units=units,
            listener=listener,
        )
        if folder is not None and output_dir is not None:
            write_results(folder, evaluation.scores.to_json(), evaluation.records)
            drawn = None if draw is None else functools.partial(draw, evaluation, folder)
            complete_results(folder, provenance, Path(output_dir), drawn)
    return evaluation


def _check(models: Sequence[str], reference: str | None, edits: Sequence[Edit] | None) -> None:
    if not models:
        raise UsageError("no model is given", "Name a model, as in: taskarith eval MODEL --data name=FILE")
    if reference in models:
        raise UsageError(
            f"{reference} is given twice", "Leave it out of the models: the one after --reference is a row already."
        )
    if len({*models}) < len(models):
        raise UsageError("a model is given twice", "Name each model once.")
    if edits is None:
        return
    if len(models) > 1:
        raise UsageError(f"{len(models)} models and an edit are given", "Edit one model in memory at a time.")
    alphas = [edit.alpha for edit in edits]
    if not alphas or not all(map(math.isfinite, alphas)) or len(set(alphas)) < len(alphas):
        raise UsageError(f"cannot evaluate alphas {alphas}", "Give different finite numbers, as in 0,0.5,1")


def _check_questions(
    data: Mapping[str, str],
    benchmark: str | None,
    tasks: Sequence[str],
    task_folder: str | Path | None,
    measurement: Measurement,
) -> None:
    if not data and not benchmark and not tasks:
        raise UsageError("no data is given", "Give a text, as in --data forget=forget.txt, or a benchmark.")
    if task_folder is not None and not tasks:
        raise UsageError(
            "a task folder is given without tasks", "Name tasks, as in --tasks mine, or leave out --task-folder."
        )
    if measurement.limit and not benchmark and not tasks:
        raise UsageError("--limit applies only to a benchmark or tasks", "Leave it out.")
    if measurement.draws and not benchmark and not (data and measurement.prompts):
        raise UsageError("--draws needs prompts", "Give texts, and --prompts above 0.")
    if measurement.lens and not benchmark and not data:
        raise UsageError("--lens needs texts", "Give a text, as in --data forget=forget.txt, or a benchmark.")
    if measurement.gradient_norms and not benchmark and not {FORGET, HOLDOUT} <= data.keys():
        raise UsageError(
            "--gradient-norms needs texts to compare",
            f"Give --data {FORGET}=FILE and --data {HOLDOUT}=FILE.",
        )


def _load_benchmark(spec: str, limit: int | None, data: Mapping[str, str], listener: Listener) -> list[Part]:
    """Read a benchmark, check its names against --data, and note what the limit leaves out."""
    reference = parse_benchmark(spec)
    parts = load_benchmark(reference, limit)
    if taken := [part.name for part in parts if part.name in data]:
        raise UsageError(
            f"{spec} and --data both have texts named {name_some(taken)}", "Give your own texts other names."
        )
    for part in parts:
        if len(part.items) < part.of:
            listener.note(f"{part.name}: the first {len(part.items):,} of {part.of:,} samples")
    return parts


def _rows(
    asked: Asked,
    done: Mapping[str, Sequence[Record]],
    units: Units,
    *,
    edits: Sequence[Edit],
    listener: Listener,
) -> Iterator[Row]:
    del done, units
    loaded = asked.loaded
    if not edits:
        yield Row(loaded.name, lambda: loaded.model)
        return
    with LazyEdit(loaded, edits[0], listener) as lazy:
        for edit in edits:
            yield Row(row_name(loaded.name, edit.alpha), functools.partial(lazy.make, edit))
