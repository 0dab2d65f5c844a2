"""What the base says of rows while another model is trained: never a second model in memory.

With LoRA it is the model with its adapter switched off. With full fine-tuning it is measured before the training and
kept in the training folder, in safetensors whose tensors are named by the rows' numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.helpers import rescale_adapter_scale
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from taskarith.checkpoints.targets import check_space
from taskarith.errors import CheckpointError, OutputError
from taskarith.training.readings import read_rows
from taskarith.training.resume import check_digests

__all__ = ["Reference", "StoredReference", "adapter_off", "check_reference_space", "store_rows"]

Reference = Callable[[torch.nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]
"""Takes the model that is trained and a batch; returns what ``Readings.compared`` does, of the base."""

_PIECE = 1 << 28
"""Bytes that are gathered before a file is written."""


def adapter_off(kind: str, layer: torch.nn.Module | None, unwrap: Callable[[Any], Any]) -> Reference:
    """Return a reference that runs the model without its adapter, and without dropout.

    The factors are scaled by 0: an adapter that is disabled is frozen meanwhile, of which FSDP would see the half.

    :param kind: See ``Objective.reference``.
    :param layer: Whose hidden states are wanted, if any.
    :param unwrap: Returns the PEFT model in what is called in training.
    """

    def compared(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        adapted: PeftModel = unwrap(model)
        model.eval()
        with torch.no_grad(), rescale_adapter_scale(adapted, 0):
            found = read_rows(model, batch, layer, use_cache=False).compared(kind)
        model.train()
        return found

    return compared


class StoredReference:
    """A reference from disk.

    :param folder: Where every process has put its files with ``store_rows``.
    :raises CheckpointError: A file is missing or is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        check_digests(folder, "the stored reference in")
        self._file_of: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with _reading(path), safe_open(path, "pt") as file:
                self._file_of |= dict.fromkeys(file.keys(), path)

    def __call__(self, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the numbers of the rows of a batch on its device, 0 where nothing is learned."""
        del model
        rows, learned = batch["rows"], batch["labels"][:, 1:] >= 0
        kept = [self._read(str(row)).to(rows.device) for row in rows.tolist()]
        if kept[0].dim() == 1:
            return torch.cat(kept)
        found = kept[0].new_zeros(*learned.shape, kept[0].shape[-1])
        for row, where, values in zip(found, learned, kept, strict=True):
            if where.any():  # else the row only fills a batch
                row[where] = values
        return found

    def _read(self, row: str) -> torch.Tensor:
        path = self._file_of[row]
        with _reading(path), safe_open(path, "pt") as file:
            return file.get_tensor(row)


def check_reference_space(target: Path, what: str, numbers: int, nbytes: int) -> None:
    """Refuse a training for which the disk does not have enough space now.

    :param target: The output.
    :param what: What is kept of the base, for the error.
    :param numbers: How many float32 of it.
    :param nbytes: Of the model that will be published.
    :raises OutputError: There is less.
    """
    try:
        check_space(target, 4 * numbers + nbytes)
    except OutputError as error:
        raise OutputError(
            f"{what} would take {4 * numbers / 1e9:.2g} GB until the end of the training: {error.message}",
            "Free some space, give fewer retain rows, or train with --lora, which keeps nothing of the base.",
        ) from error


def store_rows(
    model: torch.nn.Module,
    batches: Iterable[Mapping[str, torch.Tensor]],
    kind: str,
    layer: torch.nn.Module | None,
    prefix: Path,
) -> None:
    """Measure rows with the model as it is now, and write what is compared of them: learned tokens only.

    :param model: The base, on the device of the batches.
    :param batches: From ``RowCollator``.
    :param kind: See ``Objective.reference``.
    :param layer: Whose hidden states are wanted, if any.
    :param prefix: Folder and first letters of the files' names.
    :raises OutputError: They cannot be written.
    """
    model.eval()
    kept: dict[str, torch.Tensor] = {}
    number = size = 0
    try:
        prefix.parent.mkdir(exist_ok=True)
        for batch in batches:
            with torch.no_grad():
                found = read_rows(model, batch, layer, use_cache=False)
            for row, values, learned in zip(batch["rows"].tolist(), found.compared(kind), found.learned, strict=True):
                kept[str(row)] = (values[learned] if values.dim() else values[None]).cpu().contiguous()
                size += kept[str(row)].nbytes
            if size >= _PIECE:
                save_file(kept, prefix.with_name(f"{prefix.name}-{number}.safetensors"))
                kept, number, size = {}, number + 1, 0
        if kept:
            save_file(kept, prefix.with_name(f"{prefix.name}-{number}.safetensors"))
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write the numbers of the base to {prefix.parent}: {error}",
            "Free some space, or name an output on another disk.",
        ) from error


@contextmanager
def _reading(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", "Start over with --overwrite.") from error
