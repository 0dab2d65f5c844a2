"""Steps of the sweep: own training, full and LoRA, what it writes, and a run that is stopped and goes on."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

from peft import PeftModel

import taskarith
from benchmarks.architectures.case import Case, ImpossibleError, WrongError, check, close, files, same, text

__all__ = ["applies_own_adapter", "resumes", "resumes_lora", "trains"]

_STEPS, _SAVED, _STOPPED = 4, 2, 3
_MOVED = 8  # not all: vision towers see no image, and few tokens reach every expert


class _Stop(Exception):  # noqa: N818
    """A training is cut off."""


class _Stopper:
    """A listener that ends the training after a checkpoint."""

    def progress(self, what: str, done: float, total: float) -> None:
        """Raise at a step."""
        del total
        if what.startswith("training") and done == _STOPPED:
            raise _Stop

    def note(self, message: str) -> None:
        """Receive a remark."""


def trains(case: Case) -> None:
    """Train all weights: the names of the base, loaded and extracted."""
    base, out = files(case.base()), _train(case, "trained")
    trained = files(out)
    check(trained.keys() == base.keys(), f"other names: {sorted(trained.keys() ^ base.keys())[:2]}")
    moved = [name for name, tensor in base.items() if not tensor.equal(trained[name])]
    check(len(moved) > _MOVED, f"training moved {len(moved)} of {len(base)} tensors")
    case.load(out)
    taskarith.extract(None, str(out), case.path("trained.safetensors"))
    taskarith.apply(case.base(), add=[str(case.path("trained.safetensors"))], output_dir=case.path("trained-again"))
    close(files(case.path("trained-again")), trained, 1e-7)


def applies_own_adapter(case: Case) -> None:
    """Train an adapter and apply it: what PEFT merges."""
    adapter, out = _train(case, "adapted", lora=True), case.path("adapted-out")
    taskarith.apply(case.base(), add=[str(adapter)], output_dir=out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(case.language_model(case.base()), adapter).merge_and_unload()
    close(case.language_model(out).state_dict(), merged.state_dict())
    check(any(not tensor.equal(files(case.base())[name]) for name, tensor in files(out).items()), "nothing was trained")


def resumes(case: Case) -> None:
    """Stop a full training after a checkpoint and go on: the uninterrupted run, bit for bit."""
    _goes_on(case, "trained")


def resumes_lora(case: Case) -> None:
    """Likewise for an adapter."""
    _goes_on(case, "adapted", lora=True)


def _goes_on(case: Case, name: str, **options: Any) -> None:
    whole, cut = _train(case, name, **options), _train_stopped(case, f"{name}-cut", **options)
    try:
        same(files(cut), files(whole))
    except WrongError as error:
        again = _train(case, f"{name}-again", **options)
        if any(not tensor.equal(files(again)[key]) for key, tensor in files(whole).items()):
            raise ImpossibleError(f"two trainings that were not stopped differ, too: {error}") from error
        raise


def _train(case: Case, name: str, **options: Any) -> Path:
    out = case.path(name)
    if not out.exists():
        data = case.path("train.txt")
        data.write_text(text(300), encoding="utf-8")
        taskarith.finetune(
            case.base(),
            [str(data)],
            out,
            block_size=16,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            max_steps=_STEPS,
            save_steps=_SAVED,
            bf16=False,
            device="cpu",
            **options,
        )
    return out


def _train_stopped(case: Case, name: str, **options: Any) -> Path:
    with contextlib.suppress(_Stop):
        _train(case, name, listener=_Stopper(), **options)
    check(not case.path(name).exists(), "the training was not stopped")
    return _train(case, name, resume=True, **options)
