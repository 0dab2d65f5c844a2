"""Models, vectors and outputs that several modules of tests read."""

from __future__ import annotations

import pytest
import tiny
import torch
from adapters import TARGETS, save_adapter
from extracting import save_sharded

from taskarith.edit.apply import apply
from taskarith.vectors.extract import extract


@pytest.fixture(scope="session", params=["phi", "llama"])
def trio(request, tmp_path_factory):
    """A base (Llama's head is tied) and three vectors of it: two files and a fine-tuned folder."""
    room = tmp_path_factory.mktemp(request.param)
    base = tiny.save_model(room / "base", request.param, max_shard_size="30KB")
    tuned = [tiny.save_model(room / f"tuned{seed}", request.param, nudge_of=base, seed=seed) for seed in (1, 2, 3)]
    for number, dtype in ((0, "float64"), (1, "float32")):
        extract(str(base), str(tuned[number]), room / f"v{number}.safetensors", dtype=dtype)
    return base, room / "v0.safetensors", room / "v1.safetensors", tuned[2]


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def adapters(request, tmp_path_factory):
    """A base and three adapters of different ranks, scales and targets."""
    room, kind = tmp_path_factory.mktemp("adapters"), request.param
    base = tiny.save_model(room / "base", kind)
    options = [{"r": 3}, {"r": 5, "use_rslora": True}, {"r": 2, "target_modules": TARGETS[kind][:1]}]
    defaults = {"target_modules": TARGETS[kind], "lora_alpha": 8}
    return base, [save_adapter(base, room / f"a{i}", i, **(defaults | one)) for i, one in enumerate(options)]


@pytest.fixture(scope="session")
def three(tmp_path_factory, phi, phi_tuned):
    """A base and two fine-tunes of it."""
    return phi, phi_tuned, tiny.save_model(tmp_path_factory.mktemp("third") / "third", nudge_of=phi, seed=5)


@pytest.fixture
def other(tmp_path, phi):
    """Another fine-tune of the base."""
    return tiny.save_model(tmp_path / "other", nudge_of=phi, seed=5)


@pytest.fixture(scope="session")
def edited(tmp_path_factory):
    """A base with files of many kinds, a fine-tune, and an edit with a patch back."""
    folder = tmp_path_factory.mktemp("edited")
    base = tiny.save_model(folder / "base", dtype=torch.bfloat16)
    (base / "original").mkdir()
    (base / "original/params.json").write_text('{"dim": 4}')
    for name in (".gitattributes", "LICENSE", "pytorch_model.bin", ".env"):
        (base / name).write_text(name)
    tuned = tiny.save_model(folder / "tuned", nudge_of=base, seed=1)
    apply(str(base), add=[str(tuned)], output_dir=folder / "out", keep_undo=True)
    return folder


@pytest.fixture(scope="session")
def vector(tmp_path_factory, phi, phi_tuned):
    """The vector from the tiny Phi to its fine-tune."""
    path = tmp_path_factory.mktemp("vector") / "forget.safetensors"
    extract(str(phi), str(phi_tuned), path)
    return path


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, phi):
    """Three fine-tunes of the tiny Phi."""
    folder = tmp_path_factory.mktemp("tuned")
    return [str(tiny.save_model(folder / f"t{seed}", nudge_of=phi, seed=seed)) for seed in (21, 22, 23)]


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    """A folder with a base of several files, a fine-tune, and the vector between them."""
    folder = tmp_path_factory.mktemp("sharded")
    save_sharded(folder)
    return folder
