"""Deltas of two models by the oracle, and edits with packed vectors beside it."""

from __future__ import annotations

import numpy as np
import oracle
import torch

from taskarith.edit.apply import apply


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
