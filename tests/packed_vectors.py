"""Forms of packed vectors, and their deltas."""

from __future__ import annotations

import numpy as np
import torch

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.spec import OperandRef
from taskarith.vectors.open import open_vector

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
            packed.open(reader).fill(memoryview(room), against)
            found[name] = torch.frombuffer(room, dtype=kind).reshape(shape).double()
            if against is not None:
                found[name] -= torch.frombuffer(against, dtype=kind).reshape(shape).double()
    return found
