"""Random commands on tiny models, each as a call of the Python API and as a command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import taskarith
from benchmarks.robustness.sound import make_adapter, make_model
from taskarith.progress import Listener

__all__ = ["Command", "World"]

_LETTERS = "abcdefghijklmn"
_METHODS: tuple[Mapping[str, Any], ...] = (
    *({"method": name, "density": 0.5} for name in ("ties", "dare_linear", "dare_ties", "della", "della_linear")),
    *({"method": name, "density": 0.5} for name in ("breadcrumbs", "breadcrumbs_ties", "rows")),
    *({"method": name} for name in ("linear", "model_stock", "iso_c", "tsv", "wudi", "negmerge", "slerp")),
    {"method": "low_rank", "rank": 1},
)
_FORMS: tuple[Mapping[str, Any], ...] = (
    *({"dtype": one} for one in ("float32", "float64", "bfloat16", "float16")),
    *({"bits": one} for one in (8, 4, 1)),
    *({"top_k": 0.3, "top_k_per": one} for one in ("global", "tensor")),
    {"exact": True},
    {"rows": 0.5},
    {"rank": 2},
    {"energy": 0.9},
)
_ADAPTERS = {"rank", "energy"}


@dataclass(frozen=True)
class Command:
    """One command.

    :param verb: Of the command line.
    :param operands: What stands before the options.
    :param options: By their names in Python; those of a method have the names of the command line.
    :param output: What it writes; None if it only looks.
    """

    verb: str
    operands: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    output: Path | None = None

    def argv(self) -> list[str]:
        """Return the words after ``taskarith``."""
        named = {"method": "method", "alphas": "alpha"}
        words = [self.verb, *self.operands]
        for key, value in self._all_options().items():
            option = "--" + named.get(key, key).replace("_", "-")
            for one in _texts(key, value):
                words += [option, one] if one else [option]
        return words

    def call(self, listener: Listener) -> Any:
        """Do it in this process."""
        return _CALLS[self.verb](self.operands, self._all_options() | {"listener": listener})

    def _all_options(self) -> dict[str, Any]:
        name = "output" if self.verb in {"extract", "combine", "importance"} else "output_dir"
        return {**self.options, **({name: self.output} if self.output else {})}


def _texts(key: str, value: Any) -> list[str]:
    """Return what stands after an option, each time that it stands there; an empty text for a flag."""
    if isinstance(value, Mapping):
        return [f"{name}={one}" for name, one in value.items()]
    if key == "alphas":
        return [",".join(map(str, value))]
    return [str(one) for one in value] if isinstance(value, list) else ["" if value is True else str(value)]


_Call = Callable[[tuple[str, ...], dict[str, Any]], Any]


def _apply(operands: tuple[str, ...], options: dict[str, Any]) -> Any:
    given = {key: options.pop(key) for key in ("density", "rank") if key in options}
    options["method"] = taskarith.parse_method(options["method"], **given)
    return taskarith.apply(*operands, **options)


def _extract(operands: tuple[str, ...], options: dict[str, Any]) -> Any:
    verb = taskarith.extract_low_rank if _ADAPTERS & options.keys() else taskarith.extract
    return verb(*operands, **options)


_CALLS: dict[str, _Call] = {
    "apply": _apply,
    "extract": _extract,
    "combine": lambda operands, options: taskarith.combine(*operands, **options),
    "undo": lambda operands, options: taskarith.undo(*operands, **options),
    "verify": lambda operands, options: taskarith.verify(*operands, **options),
    "inspect": lambda operands, options: taskarith.inspect(*operands, **options),
    "diff": lambda operands, options: taskarith.diff(*operands, **options),
    "relate": lambda operands, options: taskarith.relate(operands, **options),
    "importance": lambda operands, options: taskarith.importance(
        *operands, options.pop("forget"), options.pop("retain"), **options
    ),
    "eval": lambda operands, options: taskarith.evaluate(operands, **options),
    "sweep": lambda operands, options: taskarith.sweep(*operands, **options),
}


class World:
    """Tiny models, an adapter and a text that stay, and what commands have made of them.

    :param folder: Of the models; what is written goes into ``outputs`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self.outputs, self._made = folder / "outputs", 0
        self.base, *self._models = [
            self._model(folder / name, seed, shards)
            for name, seed, shards in (("base", 0, 2), ("one", 1, 1), ("two", 2, 3))
        ]
        self.text = folder / "text.txt"
        self.text.write_text(_LETTERS * 20, encoding="utf-8")
        self._adapter = make_adapter(folder / "adapter")
        self.clear()

    def _model(self, folder: Path, seed: int, shards: int) -> Path:
        make_model(folder, seed, shards)
        vocabulary = {letter: number for number, letter in enumerate(_LETTERS)}
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer |= {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "pre_tokenizer": None}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        return folder

    def clear(self) -> None:
        """Forget what was written."""
        self.written: dict[Path, Command] = {}

    def draw(self, rng: Random, weights: Mapping[str, float]) -> Command:
        """Return a command on what there is now.

        :param rng: Decides everything.
        :param weights: How often each verb comes.
        """
        verb = rng.choices([*weights], [*weights.values()])[0]
        self._made += 1
        return getattr(self, f"_{verb}")(rng)

    def _apply(self, rng: Random) -> Command:
        operands = [f"{self._vector(rng)}:{rng.choice((0.3, 1, -0.5))}" for _ in range(rng.choice((1, 2, 2)))]
        cut = rng.randint(0, len(operands))
        options: dict[str, Any] = {"add": operands[:cut], "negate": operands[cut:], "alpha": rng.choice((0, 0.5, 1))}
        if rng.random() < 0.3:
            options |= {"keep_undo": True}
        elif rng.random() < 0.3:
            options |= {"dtype": rng.choice(("bfloat16", "float16", "float64"))}
        if rng.random() < 0.1:
            options |= {"jobs": 2}
        if rng.random() < 0.2:
            options |= {"scale": [rng.choice(("mlp=0.5", "layers=0..1", "lm_head=0", "no_such=1"))]}
        method = rng.choice(_METHODS) if rng.random() < 0.7 else {"method": "linear"}
        return self._writing(rng, Command("apply", (str(self._model_of(rng)),), {**options, **method}), "")

    def _extract(self, rng: Random) -> Command:
        form = rng.choice(_FORMS)
        command = Command("extract", (str(self.base), str(self._model_of(rng))), form)
        return self._writing(rng, command, "" if _ADAPTERS & form.keys() else ".safetensors")

    def _combine(self, rng: Random) -> Command:
        terms = [f"{self._vector(rng)}:{rng.choice((0.25, 1))}" for _ in range(2)]
        command = Command("combine", (rng.choice((" + ", " - ")).join(terms),), {"base": str(self.base)})
        return self._writing(rng, command, rng.choice(("", ".safetensors", ".safetensors")))

    def _undo(self, rng: Random) -> Command:
        edited = self._which(lambda command: "keep_undo" in command.options) or [self.base]
        return self._writing(rng, Command("undo", (str(rng.choice(edited)),)), "")

    def _importance(self, rng: Random) -> Command:
        options = {"forget": str(self.text), "retain": str(self.text), "block_size": 16}
        return self._writing(rng, Command("importance", (str(self._model_of(rng)),), options), ".safetensors")

    def _eval(self, rng: Random) -> Command:
        models = str(self._model_of(rng)), str(self.base)
        options = {"data": {"forget": str(self.text)}, "prompts": 1, "prompt_tokens": 8, "continuation_tokens": 4}
        return self._writing(rng, Command("eval", models, {**options, "block_size": 32}), "")

    def _sweep(self, rng: Random) -> Command:
        options = {"data": {"forget": str(self.text), "keep": str(self.text)}, "prompts": 0, "block_size": 16}
        choice = {"negate": [str(self._vector(rng))], "alphas": [0, 0.5], "target": 3.0}
        return self._writing(rng, Command("sweep", (str(self.base),), {**options, **choice}), "")

    def _verify(self, rng: Random) -> Command:
        return Command("verify", (str(rng.choice([*self.written, self.base])),))

    def _inspect(self, rng: Random) -> Command:
        return Command("inspect", (str(rng.choice([*self.written, self.base, self._adapter])),))

    def _diff(self, rng: Random) -> Command:
        return Command("diff", (str(self._model_of(rng)), str(self._model_of(rng))))

    def _relate(self, rng: Random) -> Command:
        vectors = self._vector(rng), self._vector(rng)
        return Command("relate", vectors, {"model": str(self.base), "rank": 2})

    def _writing(self, rng: Random, command: Command, suffix: str) -> Command:
        """Give a command an output: a new one, or one of the same command that it replaces."""
        old = self._which(lambda other: other.verb == command.verb)
        if old and rng.random() < 0.2:
            options = {**command.options, **({"overwrite": True} if rng.random() < 0.7 else {})}
            return Command(command.verb, command.operands, options, rng.choice(old))
        return Command(command.verb, command.operands, command.options, self.outputs / f"o{self._made}{suffix}")

    def _which(self, wanted: Callable[[Command], bool]) -> list[Path]:
        return [path for path, command in self.written.items() if wanted(command)]

    def _model_of(self, rng: Random) -> Path:
        return rng.choice([self.base, *self._models, *self._which(lambda one: one.verb in {"apply", "undo"})])

    def _vector(self, rng: Random) -> str:
        vectors = self._which(lambda one: one.verb in {"extract", "combine"})
        return str(rng.choice([*(f"{one}@@{self.base}" for one in self._models), self._adapter, *vectors]))
