"""One architecture on the disk: a tiny base and fine-tunes of it; and how a step of the sweep fails."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from benchmarks.architectures.population import build
from benchmarks.architectures.recipes import VOCABULARY
from taskarith.models.load import LANGUAGE_MODELS

__all__ = [
    "Case",
    "ImpossibleError",
    "Notes",
    "WrongError",
    "check",
    "close",
    "files",
    "make_case",
    "same",
    "text",
    "write_like",
]

RANK = 4
"""Of the sweep's adapters."""

_UNKNOWN, _END = "<unk>", "<eos>"
_TOKENS = {"unk_token": _UNKNOWN, "eos_token": _END, "pad_token": _END}


class WrongError(Exception):
    """The result is not right: what differs, in one line."""


class ImpossibleError(Exception):
    """What a step compares with does not exist: transformers or PEFT cannot do it, or the model has no such part."""


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, what: str, done: float, total: float) -> None:
        """Receive progress."""

    def note(self, message: str) -> None:
        """Keep a remark."""
        self.notes.append(message)


@dataclass(frozen=True)
class Case:
    """A tiny base with its fine-tunes.

    :param name: Of the architecture.
    :param folder: A place for everything that is written.
    :param cls: Class of the model.
    """

    name: str
    folder: Path
    cls: type[PreTrainedModel]

    def path(self, name: str) -> Path:
        """Return a place in the folder."""
        return self.folder / name

    def base(self, dtype: str = "float32") -> str:
        """Return the base, stored in a dtype."""
        return str(self.folder / f"base-{dtype}")

    def tuned(self, dtype: str = "float32") -> str:
        """Return the fine-tune: every float tensor of the files is moved, but masks."""
        return str(self.folder / f"tuned-{dtype}")

    def difference(self, dtype: str = "float32") -> str:
        """Return the fine-tune as an operand, with the base that it is a difference to."""
        return f"{self.tuned(dtype)}@@{self.base(dtype)}"

    def load(self, path: str | Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        """Load a model and see that its files have all weights and no others."""
        model, info = self.cls.from_pretrained(path, dtype=dtype, output_loading_info=True)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info[kind]:
                raise WrongError(f"{len(info[kind])} {kind.replace('_', ' ')} in {Path(path).name}: {min(info[kind])}")
        return model.eval()

    def language_model(self, path: str | Path) -> Any:
        """Load what the model is as a language model: as a causal one, if the files have all weights of that."""
        config = AutoConfig.from_pretrained(path)
        for auto, mapping in LANGUAGE_MODELS.items():
            if type(config) in mapping:
                model, info = auto.from_pretrained(path, dtype="float32", output_loading_info=True)
                if not info["missing_keys"]:
                    return model.eval()
        raise ImpossibleError("transformers has no language model for these files")

    def runs(self, model: PreTrainedModel) -> None:
        """See that transformers can run the base."""
        try:
            self.forward(model)
        except RuntimeError as error:
            raise ImpossibleError(f"transformers cannot run the base in {model.dtype}: {error}") from error

    def forward(self, model: PreTrainedModel) -> torch.Tensor:
        """Return the logits of some input, or what the model has instead."""
        with torch.no_grad():
            output = model(**_inputs(model))
        return next(
            value for name in ("logits", "logits_per_text") if (value := getattr(output, name, None)) is not None
        )


def make_case(name: str, folder: Path) -> Case:
    """Build an architecture small, and write base and fine-tune in float32 and bfloat16.

    In the fine-tune all float tensors are moved but masks.
    """
    model = build(name)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are not left at 0 and 1
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.05)
    case = Case(name, folder, type(model))
    model.save_pretrained(case.base())
    again = case.load(case.base())
    differing = [n for n, tensor in again.state_dict().items() if not torch.equal(tensor, model.state_dict()[n])]
    if differing:
        raise ImpossibleError(f"transformers does not load what it saved: {differing[0]}")
    masks = {name for name, tensor in model.named_buffers() if bool((tensor == 0).any())}  # what is hidden stays hidden
    case.load(case.base(), torch.bfloat16).save_pretrained(case.base("bfloat16"))
    for dtype in ("float32", "bfloat16"):
        _save_tokenizer(Path(case.base(dtype)))
        moved = {
            name: tensor if name in masks else _moved(tensor, noise) for name, tensor in files(case.base(dtype)).items()
        }
        write_like(Path(case.base(dtype)), Path(case.tuned(dtype)), moved)
    return case


def files(folder: str | Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a model or an adapter by the names in its files."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(Path(folder).glob("*model*.safetensors")):
        tensors |= load_file(path)
    return tensors


def write_like(base: Path, target: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write a copy of a one-file model folder with other numbers."""
    shutil.copytree(base, target)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, target / "model.safetensors", {"format": "pt"})
    return target


def check(condition: object, message: str) -> None:
    """Raise ``WrongError`` unless a condition holds."""
    if not condition:
        raise WrongError(message)


def same(found: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    """See that two models have the same tensors, bit for bit."""
    _check_names(found, right)
    differing = [n for n, t in right.items() if found[n].dtype != t.dtype or not torch.equal(found[n], t)]
    worst = max((float((found[n].double() - right[n].double()).abs().max()) for n in differing), default=0.0)
    check(not differing, f"{len(differing)} of {len(right)} tensors differ, by up to {worst:.1e}: {_some(differing)}")


def close(found: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor], tolerance: float = 2e-6) -> None:
    """See that two models have the same tensors up to rounding.

    :param tolerance: Relative to the greatest element of each tensor.
    """
    _check_names(found, right)
    off = {
        n: float((found[n].double() - t.double()).abs().max() / t.double().abs().max().clamp(min=1e-9))
        for n, t in right.items()
        if t.numel()
    }
    wrong = [n for n, value in off.items() if not value <= tolerance]
    worst = max((off[n] for n in wrong), default=0.0)
    check(
        not wrong, f"{len(wrong)} of {len(off)} tensors differ, by up to {worst:.1e} of their largest: {_some(wrong)}"
    )


def _check_names(found: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> None:
    check(right, "there is nothing to compare with")
    check(found.keys() == right.keys(), f"other names: {_some(found.keys() ^ right.keys())}")


def text(words: int, step: int = 37) -> str:
    """Write reproducible nonsense of words that every tokenizer of the sweep knows."""
    return " ".join(f"w{20 + (index * step + index // 7) % 180}" for index in range(words))


def _moved(tensor: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    return tensor + 0.01 * torch.randn(tensor.shape, generator=noise).to(tensor.dtype)


def _inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    ids, kind, config = torch.arange(20, 44)[None], model.main_input_name, model.config
    inputs: dict[str, torch.Tensor] = {}
    if kind == "input_features":
        length = 2 * config.max_source_positions
        inputs[kind] = torch.linspace(-1, 1, config.num_mel_bins * length).reshape(1, -1, length)
    if kind == "pixel_values" or config.model_type == "clip":
        inputs["pixel_values"] = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
    inputs = {name: value.to(model.dtype) for name, value in inputs.items()}
    if kind == "input_ids":
        inputs[kind] = ids
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    return inputs


def _some(names: Any) -> str:
    shown = sorted(names)
    return ", ".join(shown[:2]) + (f" and {len(shown) - 2} more" if len(shown) > 2 else "")


def _save_tokenizer(folder: Path) -> None:
    """Give a model words, or bytes where transformers' tokenizer of its kind splits words itself."""
    special = [_UNKNOWN, _END]
    vocabulary = [*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token=_UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, **_TOKENS).save_pretrained(folder)
    with contextlib.suppress(ValueError, AttributeError, TypeError, KeyError):
        if AutoTokenizer.from_pretrained(folder)("w20 w30", add_special_tokens=False).input_ids == [22, 32]:
            return
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer, pieces.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator([text(300)], trainer)
    PreTrainedTokenizerFast(tokenizer_object=pieces, **_TOKENS).save_pretrained(folder)
