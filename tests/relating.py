"""What tests of relations read of vectors."""

from __future__ import annotations

import numpy as np
from safetensors.torch import save_file

from taskarith.relations.geometry import Group, TensorRelation, WeightRelations
from taskarith.relations.relate import Relation


def pair(found, group="all", measure="cosine"):
    return found.to_json()["weights"][group][measure][0]


def write(like, tensors, path):
    """Save tensors under the header of a vector, without the fingerprints of its deltas."""
    from safetensors import safe_open

    with safe_open(like, "pt") as file:
        save_file(tensors, path, metadata=file.metadata() | {"deltas": "{}"})


def relation(*, zero=False, verdicts=()):
    """Return two vectors of an embedding and a layer, with norms 3 and 6, 4 and 8, and cosines 1 and -1/2."""

    def tensor(kind, layer, size, cosine):
        gram = np.array([[size**2, 2 * cosine * size**2], [2 * cosine * size**2, 4 * size**2]]) * (not zero)
        return TensorRelation(kind, kind, layer, 8, Group(gram, np.full((2, 2), 3), np.full((2, 2), 1)))

    tensors = (tensor("embedding", None, 3.0, 1.0), tensor("mlp", 0, 4.0, -0.5))
    overlaps = {0.01: np.full((2, 2), 0.25), 0.1: np.full((2, 2), np.nan)}
    weights = WeightRelations(("one", "two"), tensors, overlaps, 16)
    return Relation(("one", "two"), weights, None, None, verdicts, ())
