"""The verb `attack`: whether forgetting survives an attacker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch

from taskarith.attacks.defaults import MEASUREMENT, RUNTIME
from taskarith.attacks.exam import ATTACKS, HALF, TEXT, UNRELATED, Exam, Options, Texts, make_exam
from taskarith.attacks.recovery import BEFORE, CONVENTIONS, EDITED, METRICS, RETAIN, Outcome, numbers, outcome
from taskarith.attacks.run import TOP_K, Examination
from taskarith.attacks.strongest import Strongest, strongest
from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import check_target
from taskarith.checkpoints.team import ALONE
from taskarith.data.load import check_form, data_paths, load_data
from taskarith.errors import MismatchError, UsageError
from taskarith.evaluation.measurement import Measurement, MeasurementKeywords, with_keywords
from taskarith.evaluation.models import Loaded, model_record, open_model, parse_dtype
from taskarith.evaluation.records import Record
from taskarith.evaluation.results import kept_results, write_results
from taskarith.models.device import choose_device
from taskarith.models.runtime import Runtime
from taskarith.progress import SILENT, Listener

__all__ = ["AttackResult", "attack"]

_LEARNED = {TEXT: "forget text", HALF: "half of the forget text", UNRELATED: "unrelated text"}
"""What an attacker learned, in words."""


@dataclass(frozen=True)
class AttackResult:
    """What the attacks brought back.

    :param models: Role (``before``, ``edited``, ``retain``) to model, as named.
    :param untouched: Role to its metrics on all of the forget text without an attack.
    :param outcomes: Without an attack (``none``) and of every attack; relearning at every step count, in both views.
    :param given: Ids of the samples that the relearning attacker had, and of the prompts that touch them.
    :param missing: What cannot be told without a model that was not named.
    :param records: Of all models, as in ``records.jsonl``.
    :param given_half: As ``given``, of the attacker with half of the text.
    """

    models: dict[str, str]
    untouched: dict[str, dict[str, float]]
    outcomes: tuple[Outcome, ...]
    given: tuple[str, ...]
    missing: tuple[str, ...]
    records: list[Record] = field(repr=False)
    given_half: tuple[str, ...] = ()

    @property
    def strongest(self) -> tuple[Strongest, ...]:
        """The strongest attack by each metric in which there are shares."""
        found = (strongest(self.outcomes, metric) for metric in METRICS)
        return tuple(one for one in found if one is not None)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the records as plain values of JSON."""
        return {
            "models": dict(self.models),
            "untouched": self.untouched,
            "outcomes": [found.to_json() for found in self.outcomes],
            "strongest": [one.to_json() for one in self.strongest],
            "given_to_attacker": list(self.given),
            "given_to_attacker_with_half": list(self.given_half),
            "missing": list(self.missing),
            "conventions": dict(CONVENTIONS),
        }


def attack(
    edited: str,
    forget: str,
    *,
    before: str | None = None,
    retain: str | None = None,
    attacks: Sequence[str] = ATTACKS,
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
    measurement: Measurement = MEASUREMENT,
    runtime: Runtime = RUNTIME,
    listener: Listener = SILENT,
    **keywords: Unpack[MeasurementKeywords],
) -> AttackResult:
    """Attack a model that forgot a text, and measure how much of the text comes back.

    All attacks are done in memory, and the same is done to the model that never knew the text: what that one learns or
    guesses under an attack was not hidden in the edited one.

    :param edited: The model that forgot: a folder, a hub id or GGUF.
    :param forget: The text that it forgot, as in ``load_data``.
    :param before: The model before the edit, which knows the text: the scale of what can come back.
    :param retain: A model that never knew the text: retrained without it, or the base.
    :param attacks: Of ``relearn``, ``quantise``, ``rephrase``, ``prefix``.
    :param unrelated: A text of another kind, to relearn from as well.
    :param rephrased: Rows of rephrased prompts and true completions, instead of prompts rephrased by rule.
    :param relearn_samples: Samples of the forget text (blocks or rows) that the attacker has; the others are held out.
    :param relearn_steps: Optimizer steps after which to look.
    :param relearn_epochs: Passes of another attacker over half of the forget text; 0 leaves it out.
    :param learning_rate: Of relearning.
    :param bits: To quantise to: bits, bits and weights of a group as in ``4g128``, or ``nf4``.
    :param prefixes: Tokens of the text shown before the continuation.
    :param draws: Sampled continuations of each prefix, at temperature 1 from the 50 likeliest tokens; 0 takes none.
    :param draw: Puts pictures of the result into ``output_dir`` before it is published.
    :param output_dir: Folder for ``results.json``, ``records.jsonl`` and ``taskarith.json``; None writes nothing.
    :param overwrite: Replace an existing output.
    :param measurement: How each state is measured; the attacker learns blocks of its size, and its seed is that of
        what the attacker gets, of the order of learning and of sampling.
    :param runtime: How models are loaded; relearning needs float32.
    :param listener: Receives notes about every state and how long it took.
    :param keywords: Fields of ``measurement`` and ``runtime`` by name, such as ``prompts=4``.
    :raises UsageError: A value is out of range, or options contradict each other.
    :raises DataError: A data set is missing, empty or too short, or leaves nothing to hold out.
    :raises CheckpointError: A model is missing or broken, or gives a loss that is not finite.
    :raises MismatchError: A model tokenises the texts otherwise than the edited one.
    :raises TaskarithError: Relearning diverged.
    """
    measurement, runtime = with_keywords(keywords, measurement, runtime)
    options = Options(
        attacks=tuple(attacks),
        relearn_samples=relearn_samples,
        relearn_steps=tuple(relearn_steps),
        relearn_epochs=relearn_epochs,
        learning_rate=learning_rate,
        bits=tuple(bits),
        prefixes=tuple(prefixes),
        draws=draws,
        measurement=measurement,
    )
    models = {EDITED: edited} | ({BEFORE: before} if before else {}) | ({RETAIN: retain} if retain else {})
    place, precision = choose_device(runtime.device), parse_dtype(runtime.dtype)
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
        opened[role] = open_model(name, place, precision, listener, trust_remote_code=runtime.trust_remote_code)
        if opened[role].adapter is not None:
            raise UsageError(
                f"{name} is an adapter, and its base's weights would be attacked without it",
                f"Write the model, and attack that: taskarith apply --add {name} -o merged",
            )
        exams.append(make_exam(opened[role], texts, options))
        if exams[-1] != exams[0]:
            raise MismatchError(
                f"{name} tokenises these texts otherwise than {edited}", "Compare models with the same tokenizer."
            )

    def record() -> dict[str, Any]:
        return {
            "kind": "attack",
            "models": {
                role: {**model_record(loaded), "token_fingerprints": exams[0].questions.fingerprints()}
                for role, loaded in opened.items()
            },
            "data": texts.record(),
            "arguments": {**options.record(), "top_k": TOP_K, "dtype": runtime.dtype, "device": str(place)},
        }

    records: list[Record] = []
    with kept_results(output_dir, overwrite, record, inputs=inputs, team=ALONE, listener=listener) as (
        folder,
        units,
        provenance,
    ):
        for role, loaded in opened.items():
            examination = Examination(loaded, role, exams[0], options, listener, units.within(role))
            examination.as_it_is()
            if role != BEFORE:
                examination.attacked()
            records += examination.records
            loaded.unload()
        result = _result(models, exams[0], options, records)
        if folder is not None and output_dir is not None:
            write_results(folder, result.to_json(), result.records)
            if draw is not None:
                draw(result, folder)
            write_provenance(folder, provenance, Path(output_dir))
    return result


def _check(
    options: Options,
    models: dict[str, str],
    precision: torch.dtype | None,
    unrelated: str | None,
    rephrased: str | None,
) -> None:
    if len(set(models.values())) < len(models):
        raise UsageError("a model is given twice", "Name different models as edited, --before and --retain.")
    if "relearn" in options.attacks and precision != torch.float32:
        raise UsageError(
            "relearning needs float32 weights: half precision rounds most of each step away and so hides the leak",
            "Leave --dtype out, or relearn out of --attacks.",
        )
    for spec, option, needed in ((unrelated, "unrelated", "relearn"), (rephrased, "rephrased", "rephrase")):
        if spec and needed not in options.attacks:
            raise UsageError(f"--{option} is given, but not the attack {needed}", f"Add {needed} to --attacks.")


def _result(models: dict[str, str], exam: Exam, options: Options, records: list[Record]) -> AttackResult:
    plain = [record for record in records if record["text"] == TEXT]
    missing = []
    if BEFORE not in models:
        missing.append("recovered and beyond: need the model before the edit (--before)")
    if RETAIN not in models:
        missing.append("beyond: needs a model that never knew the text (--retain)")
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
    found = [outcome(records, attack="none", name=EDITED)]
    if "quantise" in options.attacks:
        names = [rounding.name for rounding in options.roundings]
        found += [outcome(records, attack="quantise", name=name, state=name) for name in names]
    for source, lesson in exam.lessons.items():
        name = _LEARNED[source]
        for view in (lesson.given, frozenset()):
            for step in (0, *lesson.steps):
                state = f"{source} {step}" if step else ""
                found.append(outcome(records, attack="relearn", name=name, state=state, without=view, steps=step))
    rules = [f"rephrase {rule}" for rule in exam.rephrased]
    tried = [(rule.removeprefix("rephrase "), [rule]) for rule in rules]
    found += [outcome(records, attack="rephrase", name=name, texts=texts) for name, texts in tried]
    if len(rules) > 1:
        found.append(outcome(records, attack="rephrase", name="worst", texts=rules))
    for size in exam.growing:
        found.append(outcome(records, attack="prefix", name=f"{size} greedy", texts=[f"prefix {size}"]))
        if options.draws:
            name = f"{size} best of {options.draws}"
            found.append(outcome(records, attack="prefix", name=name, texts=[f"prefix {size} sampled"]))
    return found
