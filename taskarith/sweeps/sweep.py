"""The verb `sweep`: choose coefficients by a rule on one half of the samples, and report on the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

import torch

from taskarith.calls import listed, named
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.targets import check_apart
from taskarith.checkpoints.team import ALONE, launched_team
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.data.spec import named_data
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import check_edit
from taskarith.edit.operands import named_paths
from taskarith.errors import MismatchError, UsageError
from taskarith.evaluation.edited import editable
from taskarith.evaluation.measurement import MEASUREMENT, Measurement, MeasurementKeywords, with_keywords
from taskarith.evaluation.models import parse_dtype
from taskarith.evaluation.questions import Asked
from taskarith.evaluation.results import complete_results, kept_results, write_results
from taskarith.evaluation.run import RowPlan, ask_models, measure_rows
from taskarith.merging.methods import LINEAR, Method
from taskarith.models.device import choose_device
from taskarith.models.runtime import RUNTIME, Runtime
from taskarith.progress import SILENT, Listener
from taskarith.spec import plain_scales
from taskarith.sweeps.optuna_search import check_storage
from taskarith.sweeps.result import Sweep, conclude
from taskarith.sweeps.rows import FINALISTS, SweepRows
from taskarith.sweeps.rule_options import make_rule
from taskarith.sweeps.search_options import SearchOptions
from taskarith.sweeps.search_space import find_parts

__all__ = ["ALPHAS", "RECIPE", "Sweep", "sweep"]

ALPHAS = tuple(round(0.2 * step, 1) for step in range(11))
RECIPE = "recipe.yaml"


def sweep(
    model: str | Path,
    data: Mapping[str, str | Path] | str | Path | Sequence[str | Path],
    *,
    add: str | Path | Sequence[str | Path] = (),
    negate: str | Path | Sequence[str | Path] = (),
    alphas: Sequence[float] = ALPHAS,
    search: int = 0,
    gradient: int = 0,
    by: str | Sequence[str] = (),
    reference: str | Path | None = None,
    target: float | None = None,
    budget: float | None = None,
    kl: float = 0.0,
    storage: str | Path | None = None,
    method: Method = LINEAR,
    scale: Mapping[str, Any] | Sequence[str] = (),
    protect: str | Path | Sequence[str | Path] = (),
    weights: str | Path | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    launched: bool = False,
    draw: Callable[[Sweep, Path], object] | None = None,
    measurement: Measurement = MEASUREMENT,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[MeasurementKeywords],
) -> Sweep:
    """Measure a model edited in memory at many coefficients, and choose by a rule.

    Texts whose names begin with ``forget`` are forget sets, all others retain sets. Every sample is measured once; the
    rule chooses on one half of them, and the numbers of the chosen edit are reported on the other.

    :param model: Folder, hub id or GGUF file; loaded once.
    :param data: Names of texts and their specs, as in ``load_data``.
    :param add: Vectors to add, as for ``apply``.
    :param negate: Vectors to subtract.
    :param alphas: Factors of all coefficients; 0, the unedited model, is always measured first. In a search, the
        smallest and largest bound the factor of each coefficient.
    :param search: Trials of a search by Optuna for a coefficient of each vector; 0 for no search.
    :param gradient: Steps of a search by gradient descent.
    :param by: ``layer`` and ``module`` give each third of the depth and each kind of module its own coefficients.
    :param reference: A model that never knew the forget sets; the rule aims at its level.
    :param target: Loss of each forget set to aim at instead, in nats.
    :param budget: Another rule: the most forgetting while the mean retain loss rises by at most this.
    :param kl: Weight of KL(unedited || edited) on retain sets in a search.
    :param storage: File or database of the trials of ``search``, to continue later or in several processes.
    :param method: Merge method; see ``merging.methods.parse_method``.
    :param scale: Factors per tensor, as for ``apply``.
    :param protect: Vectors of tasks to keep, for method ``project``.
    :param weights: Parameter weights, for method ``perta``.
    :param output_dir: Folder for ``results.json``, ``records.jsonl``, ``recipe.yaml`` and ``taskarith.json``.
    :param overwrite: Replace an existing output.
    :param launched: As for ``evaluate``.
    :param draw: Plots the result into that folder before it is published.
    :param measurement: As for ``evaluate``; its seed also seeds a search.
    :param runtime: As for ``evaluate``.
    :param listener: Receives progress updates and notes on precision and speed.
    :param keywords: Fields of ``measurement`` and ``runtime`` by name, such as ``prompts=4``.
    :raises UsageError: A value is out of range, options contradict each other, or a forget or retain set is missing.
    :raises DataError: A data set is missing, empty, or too short.
    :raises CheckpointError: A model is missing or broken, or gives a loss that is not finite.
    :raises MismatchError: A vector does not fit the model.
    """
    measurement, runtime = with_keywords(keywords, measurement, runtime)
    model, reference, data, by = str(model), named(reference), named_data(data), listed(by)
    add, negate, protect, weights, storage = *map(listed, (add, negate, protect)), named(weights), named(storage)
    aim = make_rule(model, data, reference, target, budget)
    options = SearchOptions(search, gradient, tuple(by), tuple(alphas), kl, storage, measurement.seed)
    edit = Edit.from_options(add, negate, protect=protect, weights=weights, scale=scale, method=method)
    edit = replace(edit, model=model)
    inputs = [model, reference or "", *data_paths(data.values()), *named_paths(edit.operands), options.storage_file]
    if output_dir is not None:
        check_target(Path(output_dir), overwrite, is_folder=True, inputs=inputs)
    options.check(method, has_aim=aim.rule is not None or reference is not None)
    team = launched_team() if launched else ALONE
    if team.size > 1 and options.is_search:
        raise UsageError(
            "a search cannot run under accelerate launch",
            "Start the command itself several times, with the same --storage.",
        )
    if aim.rule is None and reference is None:
        listener.note("no alpha will be recommended: no rule says which (--reference MODEL, --target or --budget)")
    device, _ = choose_device(runtime.device), parse_dtype(runtime.dtype)
    texts = {name: load_data(spec, measurement.form) for name, spec in data.items()}
    check_form(measurement.form, texts.values())
    asked = ask_models(
        [*([reference] if reference else []), model],
        texts,
        measurement,
        runtime,
        team=team,
        listener=listener,
    )
    _check_samples(asked)
    base = Path(editable(asked[-1].loaded))
    read = team.by_first(lambda: check_edit(base, edit, listener))
    find_parts({name: len(entry.shape) for name, entry in open_checkpoint(base).tensors.items()}, options.by)
    if output_dir is not None:
        check_apart(Path(output_dir), inputs := [*inputs, *read])
    if options.trials:
        check_storage(options.storage)

    def record() -> dict[str, Any]:
        return {
            "kind": "sweep",
            "models": [model.record() for model in asked],
            "edit": {
                "add": add,
                "negate": negate,
                "method": method.record(),
                "scale": plain_scales(edit.scale),
                "protect": protect,
                "weights": weights,
            },
            "search": asdict(options),
            "aim": {"reference": reference, "target": target, "budget": budget},
            "data": {name: text.record() for name, text in texts.items()},
            "arguments": {
                **measurement.record(),
                **runtime.record(device),
                "seed": measurement.seed,
            },
        }

    others = [path for path in read if Path(path).parent != base]
    with kept_results(output_dir, overwrite, record, inputs=inputs, read=others, team=team, listener=listener) as (
        folder,
        units,
        provenance,
    ):
        torch.manual_seed(measurement.seed)
        fingerprints = {name: text.fingerprint for name, text in texts.items()}
        rows = SweepRows(edit, measurement, reference, aim, options, fingerprints, listener)
        count = (1 + FINALISTS if options.is_search else len({0.0, *alphas})) + bool(reference)
        evaluation = measure_rows(
            asked,
            measurement,
            RowPlan(rows, count, reference, needs_reference=True, edited=True),
            team=team,
            units=units,
            listener=listener,
        )
        result = conclude(evaluation, rows.edits, aim, reference, rows.names, rows.trials)
        if folder is not None and output_dir is not None:
            write_results(folder, result.to_json(), result.records)
            _write_recipe(result, folder)
            drawn = None if draw is None else functools.partial(draw, result, folder)
            complete_results(folder, provenance, Path(output_dir), drawn)
    return result


def _check_samples(asked: Sequence[Asked]) -> None:
    """Refuse a reference that tokenises the texts differently, so that losses per token are not comparable."""
    first, *others = asked
    for other in others:
        if other.questions.ids != first.questions.ids:
            raise MismatchError(
                f"{first.loaded.name} and {other.loaded.name} cut these texts into different samples, since their "
                "tokenizers differ: losses per token are not comparable",
                "Use a reference with the same tokenizer, --target or --budget.",
            )


def _write_recipe(result: Sweep, folder: Path) -> None:
    if result.recipe is not None:
        import yaml

        text = yaml.safe_dump(result.recipe, sort_keys=False, allow_unicode=True)
        (folder / RECIPE).write_text(text, encoding="utf-8")
