"""The verb `sweep`: which coefficients, chosen by a rule on one half of the samples and reported on the other."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from taskarith.checkpoints.provenance import write_provenance
from taskarith.checkpoints.publish import check_target, publish_folder
from taskarith.checkpoints.reader import fingerprint_bytes
from taskarith.checkpoints.targets import check_apart
from taskarith.checkpoints.team import ALONE, launched_team
from taskarith.coefficients.bench import Bench, Trial
from taskarith.coefficients.choice import Aim, Mark
from taskarith.coefficients.gradient import descend
from taskarith.coefficients.halves import is_forgotten
from taskarith.coefficients.outcome import Edit, Sweep, conclude, leveled, row_halves
from taskarith.coefficients.search import load_optuna, try_coefficients
from taskarith.coefficients.space import Space, find_parts
from taskarith.edit.memory import InMemoryEdit, check_edit, named_inputs
from taskarith.edit.method import LINEAR, Method
from taskarith.errors import UsageError
from taskarith.evaluation.measure import Questions, Settings
from taskarith.evaluation.models import Loaded, find_model, parse_dtype
from taskarith.evaluation.records import Record
from taskarith.evaluation.rows import editable, evaluate_rows, row_name, write_results
from taskarith.progress import SILENT, Listener
from taskarith.spec import OperandRef, parse_scales, plain_scales
from taskarith.training.data import check_form, data_paths, load_data
from taskarith.training.precision import choose_device

__all__ = ["ALPHAS", "RECIPE", "Sweep", "sweep"]

ALPHAS = tuple(round(0.2 * step, 1) for step in range(11))
RECIPE = "recipe.yaml"
_FINALISTS = 3  # of a search, whose trials are measured by losses only: these are measured in full


def sweep(
    model: str,
    data: Mapping[str, str],
    *,
    add: Sequence[str] = (),
    negate: Sequence[str] = (),
    alphas: Sequence[float] = ALPHAS,
    search: int = 0,
    gradient: int = 0,
    by: Sequence[str] = (),
    reference: str | None = None,
    target: float | None = None,
    budget: float | None = None,
    kl: float = 0.0,
    storage: str | None = None,
    method: Method = LINEAR,
    scale: Mapping[str, Any] | Sequence[str] = (),
    protect: Sequence[str] = (),
    weights: str | None = None,
    block_size: int = 256,
    prompts: int = 16,
    prompt_tokens: int = 32,
    continuation_tokens: int = 64,
    batch_size: int | Literal["auto"] = "auto",
    apply_chat_template: bool = False,
    system_prompt: str = "",
    dtype: str = "auto",
    device: str = "auto",
    seed: int = 42,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    trust_remote_code: bool = False,
    launched: bool = False,
    draw: Callable[[Sweep, Path], object] | None = None,
    listener: Listener = SILENT,
) -> Sweep:
    """Measure a model edited in memory at many coefficients, and choose by a rule.

    Texts whose names begin with ``forget`` are to be forgotten, all others to be kept. Every sample is measured once;
    the rule looks at one half of them, and the numbers of what it chose are given on the other half.

    :param model: Folder, hub id or GGUF; loaded once.
    :param data: Names of texts, and where they are, as in ``load_data``.
    :param add: Vectors to add, as for ``apply``.
    :param negate: Vectors to subtract.
    :param alphas: What multiplies all coefficients; 0, the unedited model, is always measured first. For a search their
        least and greatest are the bounds of what multiplies each coefficient.
    :param search: Trials of a search by optuna for a coefficient of each vector; 0 is no search.
    :param gradient: Steps of a search by gradient descent.
    :param by: ``layer`` and ``module`` give each third of the depth and each kind of module coefficients of its own.
    :param reference: A model that never knew the texts to be forgotten: its level is what the rule aims at.
    :param target: Instead of its level: the loss of each text to be forgotten, in nats.
    :param budget: Choose by another rule: the most forgetting while the mean loss of what is kept rises by so much.
    :param kl: In a search, weight of KL(unedited || edited) on what is kept.
    :param storage: File or database that keeps the trials of ``search``: to go on later, or in several processes.
    :param method: How the vectors become one; see ``edit.method.parse_method``.
    :param scale: Multiplies coefficients tensor by tensor, as for ``apply``.
    :param protect: Vectors that method ``project`` looks at, as for ``apply``.
    :param weights: What method ``perta`` looks at.
    :param block_size: As for ``evaluate``, as are all that follow.
    :param output_dir: Folder for ``results.json``, ``records.jsonl``, ``recipe.yaml`` and ``taskarith.json``.
    :param draw: Draws pictures into that folder before it is published.
    :raises UsageError: A value is out of range, options contradict each other, or no text is to be forgotten or kept.
    :raises DataError: A data set is missing, empty, or too short.
    :raises CheckpointError: A model is missing or broken, or gives a loss that is not finite.
    :raises MismatchError: A vector does not fit the model.
    """
    settings = Settings(
        block_size,
        prompts,
        prompt_tokens,
        continuation_tokens,
        batch_size,
        apply_chat_template=apply_chat_template,
        system_prompt=system_prompt,
    )
    aim = _aim(data, target, budget)
    hunt = _Hunt(search, gradient, tuple(by), tuple(alphas), kl, storage, seed)
    _check(model, data, aim, reference)
    _check_hunt(hunt, method, has_aim=aim.rule is not None or reference is not None)
    edit = {"add": add, "negate": negate, "scale": scale, "protect": protect, "weights": weights, "method": method}
    inputs = [model, reference or "", *data_paths(data.values()), *named_inputs(edit)]
    if storage is not None and "://" not in storage.removeprefix("sqlite:///"):
        inputs.append(str(Path(storage.removeprefix("sqlite:///")).absolute()))
    if output_dir is not None:
        check_target(Path(output_dir), overwrite, is_folder=True, inputs=inputs)
    team = launched_team() if launched else ALONE
    if team.size > 1 and hunt.is_on:
        raise UsageError(
            "several processes cannot share the samples of a search",
            "Start the command itself several times, with one --storage.",
        )
    place, precision = choose_device(device), parse_dtype(dtype)
    if team.size == 1:  # several processes find out when they edit
        inputs += check_edit(find_model(model, listener)[1].path, edit, listener)
        if output_dir is not None:
            check_apart(Path(output_dir), inputs)
    texts = {name: load_data(spec, settings.form) for name, spec in data.items()}
    check_form(settings.form, texts.values())
    torch.manual_seed(seed)
    how = {"scale": plain_scales(parse_scales(scale)), "protect": list(protect), "weights": weights}
    prints = {name: text.fingerprint for name, text in texts.items()}
    work = _Work(edit, settings, reference, aim, hunt, prints, listener)
    evaluation, origins = evaluate_rows(
        [model],
        texts,
        settings,
        work.rows,
        (1 + _FINALISTS if hunt.is_on else len({0.0, *alphas})) + bool(reference),
        retain=reference,
        edited=True,
        device=place,
        dtype=precision,
        described=output_dir is not None,
        trust_remote_code=trust_remote_code,
        team=team,
        listener=listener,
    )
    recipe = {"model": model, "method": None if method.is_linear else method.record(), **how}
    recipe = {key: value for key, value in recipe.items() if value}
    found = conclude(evaluation, work.edits, aim, reference, recipe, work.names, work.trials)
    if output_dir is not None and team.is_first:
        provenance = {
            "kind": "sweep",
            "models": origins,
            "edit": {"add": list(add), "negate": list(negate), "method": method.record(), **how},
            "search": asdict(hunt),
            "aim": {"reference": reference, "target": target, "budget": budget},
            "data": {name: text.record() for name, text in texts.items()},
            "arguments": {**settings.record(), "dtype": dtype, "device": str(place), "seed": seed},
        }
        with publish_folder(Path(output_dir), overwrite, inputs=inputs) as folder:
            write_results(folder, found.to_json(), found.records)
            _write_recipe(found, folder)
            if draw is not None:
                draw(found, folder)
            write_provenance(folder, provenance, Path(output_dir))
    return found


@dataclass(frozen=True)
class _Hunt:
    """What is tried: the alphas, or coefficients of each vector between the least and the greatest of them."""

    trials: int
    steps: int
    by: tuple[str, ...]
    alphas: tuple[float, ...]
    kl: float
    storage: str | None
    seed: int

    @property
    def is_on(self) -> bool:
        """Whether coefficients are searched for."""
        return bool(self.trials or self.steps)


@dataclass
class _Work:
    """A sweep under way.

    :param edit: What ``InMemoryEdit`` takes.
    :param prints: Fingerprint of each text.
    :param edits: Name of each row to its edit.
    :param names: Of the coefficients that a search sets.
    :param trials: What it tried.
    """

    edit: Mapping[str, Any]
    settings: Settings
    reference: str | None
    aim: Aim
    hunt: _Hunt
    prints: Mapping[str, str]
    listener: Listener
    edits: dict[str, Edit] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    trials: list[Trial] = field(default_factory=list)

    def rows(self, loaded: Loaded, questions: Questions, done: Mapping[str, Sequence[Record]]) -> Iterator[str]:
        """Give the model at each alpha, 0 first; or after 0 the best that a search finds."""
        alphas = () if self.hunt.is_on else sorted(set(self.hunt.alphas) - {0.0})
        with InMemoryEdit(loaded.model, editable(loaded), **self.edit) as memory:
            for remark in memory.remarks:
                self.listener.note(remark)
            for alpha in (0.0, *alphas):
                memory.set(alpha)
                yield self._named(row_name(loaded.name, alpha), alpha, memory.references)
            if self.hunt.is_on:
                for number, operands in self._found(loaded, questions, done, memory):
                    memory.set(1.0, operands)
                    yield self._named(f"{loaded.name} trial {number}", 1.0, operands)

    def _named(self, name: str, alpha: float, operands: Sequence[OperandRef]) -> str:
        self.edits[name] = Edit(alpha, tuple(operands))
        return name

    def _found(
        self, loaded: Loaded, questions: Questions, done: Mapping[str, Sequence[Record]], memory: InMemoryEdit
    ) -> Iterator[tuple[int, list[OperandRef]]]:
        """Search on the validation half, and give number and vectors of the best trials."""
        hunt, halves = self.hunt, row_halves(next(iter(done.values())))
        aim = leveled(self.aim, None if self.reference is None else done[self.reference], halves.choosing)
        parts = find_parts(memory.dimensions, hunt.by)
        space = Space(tuple(memory.references), parts, min(hunt.alphas), max(hunt.alphas))
        samples = [(text, one) for text, one in questions.samples if ("loss", text, one.id) in halves.validation]
        bench = Bench(loaded, samples, self.settings, memory, space, aim, hunt.kl)
        self.names = space.names

        def on_trial(number: int, best: float) -> None:
            self.listener.progress(f"searching | best {best:.3f}", number, hunt.trials or hunt.steps)

        if hunt.trials:
            problem: list[Any] = [self.prints, self.settings.record(), str(loaded.model.dtype), memory.fingerprint()]
            problem += [space.names, space.low, space.high, repr(aim), hunt.kl]
            name = fingerprint_bytes(json.dumps(problem).encode())
            self.trials = try_coefficients(
                bench, hunt.trials, seed=hunt.seed, storage=hunt.storage, name=name, on_trial=on_trial
            )
        else:
            self.trials = descend(bench, hunt.steps, kl=hunt.kl, on_trial=on_trial, note=self.listener.note)
        first = {trial.values: number for number, trial in reversed(list(enumerate(self.trials)))}
        best = sorted(first.values(), key=lambda number: bench.objective(self.trials[number].point))
        for number in best[:_FINALISTS]:
            yield number, space.operands(self.trials[number].values)


def _aim(data: Mapping[str, str], target: float | None, budget: float | None) -> Aim:
    """Return the rule as far as it is known before the reference is measured."""
    for name, value in (("target", target), ("budget", budget)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"{name} is {value}", f"Give a finite number of nats, as in --{name} 0.5")
    if budget is not None and target is not None:
        raise UsageError("a target and a budget are two rules", "Give one of --target and --budget.")
    level = None if target is None else {text: Mark(target) for text in data if is_forgotten(text)}
    return Aim(level, budget)


def _check(model: str, data: Mapping[str, str], aim: Aim, reference: str | None) -> None:
    sides = {is_forgotten(text) for text in data}
    if sides != {True, False}:
        lacking = "to be forgotten" if True not in sides else "to be kept"
        raise UsageError(
            f"no text is {lacking}",
            "Texts whose names begin with forget are to be forgotten, all others kept: --data forget=A --data retain=B",
        )
    if reference == model:
        raise UsageError("the reference is the model itself", "Name a model that never knew what is to be forgotten.")
    if reference is not None and aim.level is not None:
        raise UsageError("a reference and a target are two levels", "Give one of --reference and --target.")


def _check_hunt(hunt: _Hunt, method: Method, *, has_aim: bool) -> None:
    alphas = hunt.alphas
    if not alphas or not all(map(math.isfinite, alphas)) or len(set(alphas)) < len(alphas):
        raise UsageError(f"cannot sweep alphas {list(alphas)}", "Give different finite numbers, as in 0,0.5,1")
    if min(hunt.trials, hunt.steps) < 0 or (hunt.trials and hunt.steps):
        raise UsageError("a search is by trials or by gradient", "Give one of --search N and --gradient N.")
    if not math.isfinite(hunt.kl) or hunt.kl < 0:
        raise UsageError(f"kl is {hunt.kl}", "Give a weight of 0 or more.")
    if not hunt.is_on:
        if hunt.by or hunt.kl or hunt.storage:
            raise UsageError("--by, --kl and --storage belong to a search", "Add --search N, or leave them out.")
        return
    if not has_aim:
        raise UsageError("a search needs an aim", "Name a --reference MODEL, a --target or a --budget.")
    if len(alphas) < 2:
        raise UsageError("a search needs two bounds", "Give them as --alpha 0,2")
    if hunt.steps and (hunt.storage or not method.is_linear):
        raise UsageError("--gradient has no --storage and no --method", "Leave them out, or use --search N.")
    if hunt.trials:
        load_optuna()


def _write_recipe(found: Sweep, folder: Path) -> None:
    if found.recipe is not None:
        import yaml

        text = yaml.safe_dump(found.recipe, sort_keys=False, allow_unicode=True)
        (folder / RECIPE).write_text(text, encoding="utf-8")
