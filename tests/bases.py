"""Vectors whose base is where it was recorded, or elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path

import oracle
from safetensors.torch import load_file

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine

HUB, COMMIT = "org/m", "a" * 40


def norm(tensors) -> float:
    return math.sqrt(sum(float(one.double().square().sum()) for one in tensors))


def difference(after, before) -> float:
    return norm(after[name].double() - before[name].double() for name in before)


def record(folder, name, model, revision=None):
    base = {"name": str(name), "revision": revision, "fingerprint": fingerprint_model(model)}
    (folder / "taskarith.json").write_text(json.dumps({"kind": "full", "base": base}))


def by_itself(room, operand):
    """Without MODEL: the base is what is edited."""
    apply(add=[operand], output_dir="out")
    return difference(oracle.load(Path("out")), oracle.load(base_of(room)))


def by_combine_alone(room, operand):
    combine(operand, "c.safetensors", dtype="float64")
    return norm(load_file("c.safetensors").values())


def base_of(room):
    places = [room / "base", room / "moved", room / "hub/models--org--m/snapshots" / COMMIT]
    return next(place for place in places if place.exists() and fingerprint_model(place) == room.fingerprint)


def name_base(adapter, name, revision=None):
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": name, "revision": revision}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
