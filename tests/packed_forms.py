"""Packed vectors of every form: their deltas, those of two models by the oracle, and edits beside it."""

from __future__ import annotations

import numpy as np
import oracle
import torch

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.apply import apply
from taskarith.spec import OperandRef
from taskarith.vectors.open import open_vector


def deltas_of(base, tuned):
    """Return fine-tuned minus base in float32, by sorted name, as numpy."""
    before, after = oracle.load(base), oracle.load(tuned)
    return {name: (after[name].double() - before[name].double()).float().numpy() for name in sorted(before)}


def check_apply(base, vector, wanted, folder, alpha=0.7):
    """Compare an edit with the oracle's, bit for bit."""
    apply(str(base), add=[str(vector)], alpha=alpha, output_dir=folder)
    expected = {
        name: oracle.edit(value, [torch.from_numpy(np.ascontiguousarray(wanted[name]))], [alpha], value.dtype)
        for name, value in oracle.load(base).items()
    }
    assert oracle.differing(oracle.load(folder), expected) == []


FORMS = {"exact": {"exact": True}, "sparse": {"top_k": 0.1}, "rows": {"rows": 0.5}, "quantised": {"bits": 4}}


def decoded(path, base):
    """Return the deltas of a packed vector as float64, by name."""
    vector, found = open_vector(OperandRef(str(path), 1.0), open_checkpoint(base)).vector, {}
    with TensorReader() as reader:
        for name, shape in vector.shapes.items():
            packed, against = vector.delta(name), None
            kind = {"BF16": torch.bfloat16, "F32": torch.float32}[packed.dtype]
            room = bytearray(int(np.prod(shape)) * kind.itemsize)
            if packed.base is not None:
                against = memoryview(bytearray(reader.read(packed.base, 0, packed.base.nbytes)))
            packed.open(reader).read_into(memoryview(room), against)
            found[name] = torch.frombuffer(room, dtype=kind).reshape(shape).double()
            if against is not None:
                found[name] -= torch.frombuffer(against, dtype=kind).reshape(shape).double()
    return found


def largest(values, count):
    """Return which of some values are kept: the largest magnitudes, the first of equal ones."""
    kept = np.zeros(values.size, bool)
    kept[np.argsort(-np.abs(values.ravel().astype(np.float64)), kind="stable")[:count]] = True
    return kept.reshape(values.shape)
