"""``extract --dry-run``: the size and the errors of the extraction itself, and nothing written or read but headers."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
import random_models
import tiny
import torch
from adapters import save_adapter
from commands import invoke
from safetensors.torch import save_file

from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import TaskarithError
from taskarith.vectors.extract import extract
from taskarith.vectors.forecast import forecast_extract
from taskarith.vectors.low_rank import extract_low_rank

PACKED = [
    {"exact": True},
    {"top_k": 0.05},
    {"top_k": 1.0},
    {"top_k": 0.3, "top_k_per": "tensor", "dtype": "bfloat16"},
    {"rows": 0.4},
    {"bits": 8},
    {"bits": 4},
    {"bits": 1},
]
LOW_RANK = [{"rank": 1}, {"rank": 4}, {"energy": 0.9}, {"energy": 0.9, "dtype": "bfloat16"}]
LAYOUT = {
    "a.weight": ((700, 1900), torch.float32),
    "b.weight": ((64, 33), torch.float16),
    "c.weight": ((3, 5, 7), torch.bfloat16),
    "d.bias": ((4097,), torch.float32),
    "e": ((), torch.float32),
    "f": ((0, 4), torch.float32),
    "g": ((9,), torch.int64),
}


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """Two models with nothing in common, whose difference cannot be compressed."""
    folder = tmp_path_factory.mktemp("strangers")
    tensors = [random_models.draw(LAYOUT, seed) for seed in (1, 2)]
    return [random_models.write(folder / str(number), one, number + 1) for number, one in enumerate(tensors)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_the_size_of_a_dense_vector_is_known(tmp_path, strangers, dtype):
    found = forecast_extract(*strangers, tmp_path / "v.safetensors", dtype=dtype)
    assert list(tmp_path.iterdir()) == []
    done = extract(*strangers, tmp_path / "v.safetensors", dtype=dtype)
    assert (found.kind, found.write_bytes) == ("dense", done.nbytes)
    assert (found.tensors, found.elements) == (done.tensors, done.elements)


@pytest.mark.parametrize("form", PACKED, ids=str)
def test_a_packed_vector_is_no_larger(tmp_path, strangers, form):
    found = forecast_extract(*strangers, tmp_path / "v.safetensors", **form)
    assert list(tmp_path.iterdir()) == []
    done = extract(*strangers, tmp_path / "v.safetensors", **form)
    assert found.kind == done.kind
    assert done.nbytes <= found.write_bytes <= 2 * done.nbytes


@pytest.mark.parametrize("kind", ["phi", "gpt2", "moe", "mamba"])
@pytest.mark.parametrize(
    "wanted", [{"rank": 1}, {"rank": 4}, {"energy": 0.9}, {"energy": 0.9, "dtype": "bfloat16"}], ids=str
)
def test_a_low_rank_adapter_is_no_larger(tmp_path, kind, wanted):
    base = tiny.save_model(tmp_path / "base", kind)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    found = forecast_extract(str(base), str(tuned), tmp_path / "v", **wanted)
    assert not (tmp_path / "v").exists()
    done = extract_low_rank(str(base), str(tuned), tmp_path / "v", **wanted)
    assert found.kind == "lowrank"
    if "rank" in wanted:
        assert found.write_bytes == done.nbytes  # all of it moves, and by no less
    else:
        assert done.nbytes <= found.write_bytes <= 2 * done.nbytes


@pytest.mark.parametrize("kind", ["phi", "gpt2", "moe", "mamba"])
@pytest.mark.parametrize("form", [{}, {"exact": True}, {"top_k": 0.1}, {"bits": 4}, {"rank": 2}], ids=str)
def test_no_tensor_is_read(tmp_path, kind, form, monkeypatch):
    base = tiny.save_model(tmp_path / "base", kind)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=1)
    for name in ("fingerprint", "pieces", "read", "read_into"):
        monkeypatch.setattr(TensorReader, name, lambda *_: pytest.fail("a tensor was read"))
    out = tmp_path / ("v" if "rank" in form else "v.safetensors")
    assert forecast_extract(str(base), str(tuned), out, **form).write_bytes > 0


def test_of_an_adapter_only_headers_are_read(tmp_path, phi, monkeypatch):
    adapter = save_adapter(phi, tmp_path / "adapter")
    monkeypatch.setattr(TensorReader, "fingerprint", None)
    found = forecast_extract(str(phi), str(adapter), tmp_path / "v.safetensors")
    monkeypatch.undo()
    assert found.write_bytes == extract(str(phi), str(adapter), tmp_path / "v.safetensors").nbytes


def _in_another_dtype(phi: Path, folder: Path) -> Path:
    tiny.save_model(folder, nudge_of=phi, scale=0)
    tensors = {name: value.to(torch.bfloat16) for name, value in oracle.load(phi).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("of", "options"),
    [
        ("tuned", {"dtype": "int8"}),
        ("tuned", {"top_k": 2.0}),
        ("tuned", {"bits": 3}),
        ("tuned", {"vocab": "both"}),
        ("tuned", {"exact": True, "bits": 4}),
        ("tuned", {"device": "tpu"}),
        ("tuned", {"rank": 0}),
        ("tuned", {"rank": 4, "energy": 0.5}),
        ("nothing", {}),
        ("longer", {}),
        ("other dtype", {"exact": True}),
        ("adapter", {"exact": True}),
        ("adapter", {"rank": 2}),
        ("there", {}),
    ],
    ids=str,
)
def test_errors_are_those_of_the_extraction(tmp_path, phi, phi_tuned, of, options):
    models = {
        "tuned": lambda: phi_tuned,
        "there": lambda: phi_tuned,
        "nothing": lambda: tmp_path / "nothing",
        "longer": lambda: tiny.save_model(tmp_path / "longer", "llama"),
        "other dtype": lambda: _in_another_dtype(phi, tmp_path / "other"),
        "adapter": lambda: save_adapter(phi, tmp_path / "adapter"),
    }
    tuned, out = str(models[of]()), tmp_path / ("v" if {"rank", "energy"} & {*options} else "v.safetensors")
    if of == "there":
        out.write_text("precious")
    run = extract_low_rank if out.name == "v" else extract
    with pytest.raises(TaskarithError) as expected:
        run(str(phi), tuned, out, **options)
    with pytest.raises(TaskarithError) as found:
        forecast_extract(str(phi), tuned, out, **options)
    assert (type(found.value), str(found.value)) == (type(expected.value), str(expected.value))


def test_the_command_prints_what_would_be_done(tmp_path, phi, phi_tuned):
    words = ["extract", phi, phi_tuned, "-o", tmp_path / "v.safetensors", "--dry-run"]
    done = invoke(*words)
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path / 'v.safetensors'}\n"
    assert "dense: 33 tensors" in done.stderr
    assert "at most" not in done.stderr
    assert "sparse: 33 tensors" in (packed := invoke(*words, "--top-k", 0.1).stderr)
    assert "would write at most" in packed
    assert "reading and writing: about" in packed
    values = json.loads(invoke(*words, "--json").stdout)
    assert values["dry_run"] is True
    assert values["write_bytes"] == extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors").nbytes
