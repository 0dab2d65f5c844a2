"""The verb `attack`: test whether forgetting survives an attacker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch

from taskarith.attacks.defaults import MEASUREMENT, RUNTIME
from taskarith.attacks.exam import ATTACKS, HALF, TEXT, UNRELATED, Exam, Options, Texts, make_exam
from taskarith.attacks.recovery import BEFORE, EDITED, RETAIN, Outcome, numbers, outcome
from taskarith.attacks.result import AttackResult
from taskarith.attacks.run import TOP_K, Examination
from taskarith.calls import listed, named, renamed
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.team import ALONE, launched_team
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.errors import MismatchError, UsageError
from taskarith.evaluation.measurement import Measurement, MeasurementKeywords, with_keywords
from taskarith.evaluation.models import Loaded, model_record, open_together, parse_dtype
from taskarith.evaluation.records import Record
from taskarith.evaluation.results import complete_results, kept_results, write_results
from taskarith.models.device import own_device
from taskarith.models.runtime import Runtime
from taskarith.progress import SILENT, Listener

__all__ = ["attack"]

_LEARNED = {TEXT: "forget text", HALF: "half of the forget text", UNRELATED: "unrelated text"}
"""Names of what an attacker learned."""


@renamed(retain="reference")
def attack(
    edited: str | Path,
    forget: str | Path,
    *,
    before: str | Path | None = None,
    reference: str | Path | None = None,
    attacks: str | Sequence[str] = ATTACKS,
    unrelated: str | None = None,
    rephrased: str | None = None,
    relearn_samples: int = 1,
    relearn_steps: Sequence[int] = (2, 4, 8),
    relearn_epochs: int = 1,
    learning_rate: float = 3e-5,
    bits: Sequence[int | str] = (8, 4, "4g128", "nf4"),
    prefixes: Sequence[int] = (8, 16, 32, 64),
    draws: int = 4,
    draw: Callable[[AttackResult, Path], object] | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    launched: bool = False,
    measurement: Measurement = MEASUREMENT,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[MeasurementKeywords],
) -> AttackResult:
    """Attack a model that forgot a text, and measure how much of the text comes back.

    All attacks run in memory. The model that never knew the text is attacked in the same way: what it learns or guesses
    under an attack was not hidden in the edited model.

    :param edited: The model that forgot: a folder, hub id or GGUF file.
    :param forget: The text it forgot, as in ``load_data``.
    :param before: The model before the edit, which knows the text and sets what can be recovered.
    :param reference: A model that never knew the text: retrained without it, or the base.
    :param attacks: Any of ``relearn``, ``quantise``, ``rephrase``, ``prefix``.
    :param unrelated: An unrelated text to relearn on as well.
    :param rephrased: Rows of rephrased prompts and true completions, instead of prompts rephrased by rule.
    :param relearn_samples: Samples of the forget text (blocks or rows) given to the attacker; the others are held out.
    :param relearn_steps: Optimizer steps after which to measure.
    :param relearn_epochs: Epochs of another attacker on half of the forget text; 0 to skip it.
    :param learning_rate: Learning rate of relearning.
    :param bits: Quantisation formats: bits, bits and group size as in ``4g128``, or ``nf4``.
    :param prefixes: Prefix lengths, in tokens.
    :param draws: Sampled continuations per prefix, at temperature 1 from the 50 most likely tokens; 0 for none.
    :param draw: Plots the result into the folder before it is published.
    :param output_dir: Folder for ``results.json``, ``records.jsonl`` and ``taskarith.json``; None writes nothing.
    :param overwrite: Replace an existing output.
    :param launched: As for ``evaluate``; every process relearns by itself.
    :param measurement: How each attacked model is measured. Its block size is also that of relearning, its seed that of
        the attacker's samples, their order, and sampling.
    :param runtime: How models are loaded; relearning needs float32.
    :param listener: Receives notes on every step and its duration.
    :param keywords: Fields of ``measurement`` and ``runtime`` by name, such as ``prompts=4``.
    :raises UsageError: A value is out of range, or options contradict each other.
    :raises DataError: A data set is missing, empty or too short, or leaves nothing to hold out.
    :raises CheckpointError: A model is missing or broken, or gives a loss that is not finite.
    :raises MismatchError: A model tokenises the texts differently from the edited one.
    :raises TaskarithError: Relearning diverged.
    """
    measurement, runtime = with_keywords(keywords, measurement, runtime)
    edited, forget, before, reference = str(edited), str(forget), named(before), named(reference)
    options = Options(
        attacks=tuple(listed(attacks)),
        relearn_samples=relearn_samples,
        relearn_steps=tuple(relearn_steps),
        relearn_epochs=relearn_epochs,
        learning_rate=learning_rate,
        bits=tuple(bits),
        prefixes=tuple(prefixes),
        draws=draws,
        measurement=measurement,
    )
    models = {EDITED: edited} | ({BEFORE: before} if before else {}) | ({RETAIN: reference} if reference else {})
    team = launched_team() if launched else ALONE
    device, precision = own_device(runtime, team), parse_dtype(runtime.dtype)
    _check(options, models, precision, unrelated, rephrased)
    inputs = [*models.values(), *data_paths([forget, unrelated, rephrased])]
    if output_dir is not None:
        check_target(Path(output_dir), overwrite, is_folder=True, inputs=inputs)
    form = measurement.form
    texts = Texts(
        load_data(forget, form), *(load_data(spec, form) if spec else None for spec in (unrelated, rephrased))
    )
    check_form(form, [texts.forget])
    opened: dict[str, Loaded] = {}
    exams: list[Exam] = []
    for role, name in models.items():
        opened[role] = open_together(name, runtime, listener, team)
        if opened[role].adapter is not None:
            raise UsageError(
                f"{name} is an adapter, and attacks would ignore its weights",
                f"Write the merged model and attack it: taskarith apply --add {name} -o merged",
            )
        exams.append(make_exam(opened[role], texts, options))
        if exams[-1] != exams[0]:
            raise MismatchError(
                f"{name} tokenises these texts differently from {edited}", "Compare models with the same tokenizer."
            )

    def record() -> dict[str, Any]:
        return {
            "kind": "attack",
            "models": {
                role: {**model_record(loaded), "token_fingerprints": exams[0].questions.fingerprints()}
                for role, loaded in opened.items()
            },
            "data": texts.record(),
            "arguments": {**options.record(), "top_k": TOP_K, **runtime.record(device)} | {"processes": team.size},
        }

    records: list[Record] = []
    with kept_results(output_dir, overwrite, record, inputs=inputs, team=team, listener=listener) as (
        folder,
        units,
        provenance,
    ):
        for role, loaded in opened.items():
            examination = Examination(loaded, role, exams[0], options, listener, units.within(role), team)
            examination.unattacked()
            if role != BEFORE:
                examination.attacked()
            records += examination.records
            loaded.unload()
        result = _result(models, exams[0], options, records)
        if folder is not None and output_dir is not None:
            write_results(folder, result.to_json(), result.records)
            drawn = None if draw is None else functools.partial(draw, result, folder)
            complete_results(folder, provenance, Path(output_dir), drawn)
    return result


def _check(
    options: Options,
    models: dict[str, str],
    precision: torch.dtype | None,
    unrelated: str | None,
    rephrased: str | None,
) -> None:
    if len(set(models.values())) < len(models):
        raise UsageError("a model is given twice", "Name different models as edited, --before and --reference.")
    if "relearn" in options.attacks and precision != torch.float32:
        raise UsageError(
            "relearning needs float32 weights: half precision rounds away most of each step, which hides the leak",
            "Leave out --dtype, or remove relearn from --attacks.",
        )
    for spec, option, needed in ((unrelated, "unrelated", "relearn"), (rephrased, "rephrased", "rephrase")):
        if spec and needed not in options.attacks:
            raise UsageError(f"--{option} needs the attack {needed}", f"Add {needed} to --attacks.")


def _result(models: dict[str, str], exam: Exam, options: Options, records: list[Record]) -> AttackResult:
    plain = [record for record in records if record["text"] == TEXT]
    missing = []
    if BEFORE not in models:
        missing.append("recovered and beyond: need the model before the edit (--before)")
    if RETAIN not in models:
        missing.append("beyond: needs a model that never knew the text (--reference)")
    return AttackResult(
        models=models,
        untouched={role: numbers(record for record in plain if record["model"] == role) for role in models},
        outcomes=tuple(_outcomes(exam, options, records)),
        given=_given(exam, TEXT),
        missing=tuple(missing),
        records=records,
        given_half=_given(exam, HALF),
    )


def _given(exam: Exam, source: str) -> tuple[str, ...]:
    return tuple(sorted(exam.lessons[source].given)) if source in exam.lessons else ()


def _outcomes(exam: Exam, options: Options, records: list[Record]) -> list[Outcome]:
    outcomes = [outcome(records, attack="none", name=EDITED)]
    if "quantise" in options.attacks:
        names = [rounding.name for rounding in options.roundings]
        outcomes += [outcome(records, attack="quantise", name=name, state=name) for name in names]
    for source, lesson in exam.lessons.items():
        name = _LEARNED[source]
        for view in (lesson.given, frozenset()):
            for step in (0, *lesson.steps):
                state = f"{source} {step}" if step else ""
                outcomes.append(outcome(records, attack="relearn", name=name, state=state, without=view, steps=step))
    rules = [f"rephrase {rule}" for rule in exam.rephrased]
    by_rule = [(rule.removeprefix("rephrase "), [rule]) for rule in rules]
    outcomes += [outcome(records, attack="rephrase", name=name, texts=texts) for name, texts in by_rule]
    if len(rules) > 1:
        outcomes.append(outcome(records, attack="rephrase", name="worst", texts=rules))
    for size in exam.growing:
        outcomes.append(outcome(records, attack="prefix", name=f"{size} greedy", texts=[f"prefix {size}"]))
        if options.draws:
            name = f"{size} best of {options.draws}"
            outcomes.append(outcome(records, attack="prefix", name=name, texts=[f"prefix {size} sampled"]))
    return outcomes
