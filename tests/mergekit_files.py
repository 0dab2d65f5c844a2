"""Configurations of mergekit: models with weights, and what merging by one of them gives."""

from __future__ import annotations

import numpy as np
import oracle
import torch
import yaml
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.inspection.verify import verify

FILTERED = [
    {"filter": "mlp", "value": [0.25, 1]},
    {"filter": "self_attn", "value": 0.75},
    {"value": [1, 0.5]},
]


def model(name, weight=None, **more):
    return {"model": str(name)} | ({} if weight is None else {"parameters": {"weight": weight}}) | more


def merge(folder, config):
    (folder / "merge.yaml").write_text(yaml.safe_dump(config))
    arguments = ["apply", "--config", str(folder / "merge.yaml"), "-o", str(folder / "out")]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "500"})
    assert done.exit_code == 0, done.output
    assert verify(folder / "out").is_sound
    return oracle.load(folder / "out"), done.output


def check(got, models, weight_of):
    """Compare with ``sum of weight * model`` in float64: each element is the nearest float32.

    Exactly between two of them either will do: weights such as 1/5 are none in binary, and decide it one way or other.
    """
    loaded = [oracle.load(one) for one in models]
    for name, values in got.items():
        wide = sum(weight * one[name].double() for weight, one in zip(weight_of(name), loaded, strict=True)).numpy()
        best = np.abs(oracle.round_once(wide, torch.float32) - wide)
        assert (np.abs(values.double().numpy() - wide) <= best * (1 + 1e-6) + 1e-17).all(), name


def filtered(name):
    """FILTERED by hand, for two layers: a gradient has its first value outside of the layers."""
    if "mlp" in name:
        return 0.25 if ".layers.0." in name else 1.0
    if "self_attn" in name:
        return 0.75
    return 0.5 if ".layers.1." in name else 1.0
