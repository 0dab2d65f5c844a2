"""A PEFT LoRA adapter folder as a task vector, read in factored form.

delta W = scale * B A with scale = lora_alpha / r, or lora_alpha / sqrt(r) for rank-stabilised LoRA, r and lora_alpha by
module where a pattern says so; transposed where the layer stores its weight as in x out (fan_in_fan_out). What PEFT
saves beside factors (biases, whole modules, trained tokens) is a difference to the base.
Source: Hu et al., "LoRA", arXiv 2106.09685; Kalajdzievski, "rsLoRA", arXiv 2312.03732; PEFT's conventions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.errors import MismatchError, VectorError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.vectors.file import DenseVector
from taskarith.vectors.lora.config import read_adapter_config
from taskarith.vectors.lora.parts import Dora, Part, Product, Rows, Saved, SavedDelta, Stack, load_values
from taskarith.vectors.lora.place import place_adapter
from taskarith.vectors.lora.read import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_tensors, read_adapter, scale_of
from taskarith.vectors.vector import BaseRecord, Delta

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "REST_WEIGHTS",
    "AdapterVector",
    "adapter_base",
    "adapter_factors",
    "adapter_tensors",
]

REST_WEIGHTS = "rest.safetensors"
"""A task vector file beside the factors: what has none, in a folder that taskarith extracted; PEFT ignores it."""


def adapter_base(path: Path) -> BaseRecord | None:
    """Return the base that an adapter folder names, without fingerprints, or None where it names none."""
    config = read_adapter_config(path)
    name = config.get("base_model_name_or_path")
    return BaseRecord(str(name), config.get("revision") or None) if name else None


def adapter_factors(path: Path) -> dict[str, tuple[TensorEntry, TensorEntry, float]]:
    """Return A, B and the scale of every module whose change is ``scale B A``; no factor is read.

    Those of bare parameters and of DoRA are left out: without the base nothing is known about their product.

    :raises VectorError: It is not a LoRA, is pickled, or has tensors that do not belong there.
    """
    adapter = read_adapter(path)
    return {
        module: (pairs[0].a, pairs[0].b, scale_of(adapter, module, pairs[0].a.shape[0]))
        for module, pairs in adapter.factors.items()
        if pairs[0].magnitude is None and not adapter.has_bare_parameters(module)
    }


class AdapterVector:
    """A LoRA adapter against the base it is applied to; its product is never stored.

    ``architecture`` is what its names were understood by, ``products`` are its factors by parameter in memory,
    ``others`` the tensors that it moves by something else than factors.

    :param path: Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
    :param base: The checkpoint to be edited; its shapes tell which layers are transposed.
    :param record: The base as provenance.
    :param origin: The checkpoint it was trained on, against which saved tensors are taken; by default ``base``.
    :param listener: Receives a note where reading takes some seconds.
    :raises VectorError: It is not a LoRA, is pickled, broken, or cannot be expressed in the tensors of ``base``.
    :raises MismatchError: It targets tensors that the base lacks, or of another shape.
    """

    kind: str = "lora"

    def __init__(
        self,
        path: Path,
        base: Checkpoint,
        record: BaseRecord | None,
        origin: Checkpoint | None = None,
        listener: Listener = SILENT,
    ) -> None:
        self.name = str(path)
        self.files: tuple[Path, ...] = (path / ADAPTER_WEIGHTS, path / ADAPTER_CONFIG)
        self.base = record
        self.known: frozenset[str] | None = None
        placed = place_adapter(read_adapter(path), base, origin or base, listener)
        parts, tied = placed.parts, placed.tied
        self.architecture, self.products, self.remarks = placed.architecture, placed.products, placed.remarks
        self.files += tuple({part.base.path for part in parts.values() if isinstance(part, Saved | Rows | Dora)})
        if (path / REST_WEIGHTS).exists():
            rest = DenseVector(path / REST_WEIGHTS)
            parts, tied = self._with(rest, parts), {**tied, **rest.tied}
            self.files += rest.files
        self._parts: Mapping[str, Part] = parts
        self.others = [name for name, part in parts.items() if not isinstance(part, Product | Stack)]
        self._load = lru_cache(maxsize=4)(load_values)  # experts that are stored one by one share their factors
        self.tied: Mapping[str, str] = tied
        self.shapes: Mapping[str, tuple[int, ...]] = {name: part.shape for name, part in parts.items()}
        self._check_base(base)

    def delta(self, tensor: str) -> Delta:
        """Read the factors of one tensor, or say where its delta lies.

        :raises VectorError: They are not finite.
        """
        return self._parts[tensor].delta(self._load)

    def _with(self, rest: DenseVector, parts: Mapping[str, Part]) -> dict[str, Part]:
        if both := [name for name in rest.shapes if name in parts]:
            raise VectorError(
                f"{len(both)} tensors are both in {rest.name} and in the adapter beside it: {name_some(both)}",
                "Extract it again.",
            )
        return {**parts, **{name: SavedDelta(entry) for name, entry in rest.entries.items()}}

    def _check_base(self, base: Checkpoint) -> None:
        absent = [name for name in self.shapes if name not in base.tensors]
        if absent:
            raise MismatchError(
                f"{len(absent)} targets of adapter {self.name} are not in {base.path}: {name_some(absent)}",
                "Apply it to the model it was trained on.",
            )
        wrong = [
            f"{name} {list(shape)} against {list(base.tensors[name].shape)}"
            for name, shape in self.shapes.items()
            if base.tensors[name].shape != shape
        ]
        if wrong:
            raise MismatchError(
                f"{len(wrong)} targets of adapter {self.name} have another shape in {base.path}: {name_some(wrong)}",
                "Apply the adapter to the model it was trained on.",
            )
