"""Methods that merge several vectors otherwise than by adding: laws of whole edits, refusals, the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import oracle
import pytest
import tiny
import torch
from adapters import save_adapter
from finetuning import DEVICES
from merging import BETWEEN_TWO, DENSE, method
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.provenance import read_provenance, write_provenance
from taskarith.checkpoints.publish import publish
from taskarith.checkpoints.reader import TensorReader
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.run import run_plan
from taskarith.errors import UsageError
from taskarith.inspection.verify import verify
from taskarith.merging.methods import LINEAR, parse_method


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, phi):
    folder = tmp_path_factory.mktemp("tuned")
    return [str(tiny.save_model(folder / f"t{seed}", nudge_of=phi, seed=seed)) for seed in (21, 22, 23)]


@pytest.mark.parametrize(
    "name", [name for name in DENSE if name not in BETWEEN_TWO | {"model_stock", "iso_c", "sce", "karcher"}]
)
def test_one_vector_whole_is_linear_to_the_bit(tmp_path, phi, tuned, name):
    operands = {"add": [f"{tuned[0]}:0.7"], "alpha": -0.9, "dtype": "float64"}
    expected = apply(str(phi), **operands, output_dir=tmp_path / "linear").fingerprint
    assert apply(str(phi), **operands, output_dir=tmp_path / "other", method=method(name, 1.0)).fingerprint == expected


@pytest.mark.parametrize("name", ["dare_linear", "della_linear", "breadcrumbs"])
def test_several_vectors_whole_are_linear_to_the_bit(tmp_path, phi, tuned, name):
    operands = {"add": [f"{tuned[0]}:0.7", tuned[1]], "negate": [f"{tuned[2]}:0.3"], "alpha": 1.1, "dtype": "float64"}
    expected = apply(str(phi), **operands, output_dir=tmp_path / "linear").fingerprint
    assert apply(str(phi), **operands, output_dir=tmp_path / "other", method=method(name, 1.0)).fingerprint == expected


OF_EACH_KIND = {"ties", "dare_ties", "slerp", "sce", "tsv"}
"""Methods that look at pieces several times, draw random masks, need the base, count what varies, need whole matrices.

Several processes, which take seconds to start, know nothing else of a method.
"""


@pytest.mark.parametrize("name", DENSE)
def test_nothing_but_the_numbers_changes_a_bit(tmp_path, phi, tuned, name):
    base, how = open_checkpoint(phi), method(name)
    names = [f"{tuned[0]}:0.5", f"{tuned[1]}:1.25", f"{tuned[2]}:0.8"][: 2 if name in BETWEEN_TWO else 3]

    def run(names, **how_to):
        edit = replace(Edit.from_options(names, method=how), alpha=0.7, max_shard_size=how_to.pop("size", None))
        plan = plan_edit(base, open_edit(edit, base), edit)
        with publish(tmp_path / "out", overwrite=True, is_folder=True) as place:
            run_plan(plan, place, **how_to)
            write_provenance(place.path, {"kind": "edit"})
        return fingerprint_model(tmp_path / "out")

    expected = run(names)
    assert expected not in {fingerprint_model(phi), run_linear(phi, names, tmp_path)}
    assert run(names[::-1], chunk=777, workers=1, size=30_000) == expected
    assert run([*names[1:], names[0]], chunk=50_000, workers=3) == expected
    for device in ["torch"] + ["cuda"] * (torch.cuda.is_available() and not how.needs_whole_tensors):
        assert run(names, device=device, chunk=5_000) == expected
    if name not in BETWEEN_TWO:
        assert run([*names, f"{tuned[2]}:0"]) == expected  # drops out
    if name in OF_EACH_KIND:
        result = apply(str(phi), add=names, alpha=0.7, output_dir=tmp_path / "jobs", method=how, jobs=2)
        assert result.fingerprint == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["iso_c", "tsv", "wudi", "low_rank"])
def test_a_merge_of_whole_matrices_on_any_device_passes_the_check_on_the_cpu(tmp_path, phi, tuned, name, device):
    apply(str(phi), add=tuned[:2], alpha=0.7, output_dir=tmp_path / "out", method=method(name), device=device)
    record = read_provenance(tmp_path / "out")
    assert record.get("device") == (None if device == "cpu" else device)
    found = verify(str(tmp_path / "out"))
    assert found.is_sound
    assert 0 < found.tolerance < 1e-5
    assert found.sampled


def run_linear(phi, names, folder):
    return apply(str(phi), add=names, alpha=0.7, output_dir=folder / "linear", method=LINEAR).fingerprint


def test_a_tied_head_gets_the_mask_of_its_embedding(tmp_path):
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    apply(str(base), add=[f"{tuned}@@{base}"], output_dir=tmp_path / "out", method=method("dare_linear"))
    got = oracle.load(tmp_path / "out")
    assert torch.equal(got["lm_head.weight"], got["model.embed_tokens.weight"])


@pytest.mark.parametrize("name", ["ties", "dare_linear", "tsv"])
def test_an_edit_in_memory_has_the_bits_of_one_on_disk(tmp_path, phi, tuned, name):
    how = method(name)
    apply(str(phi), add=tuned[:2], alpha=0.8, output_dir=tmp_path / "out", method=how)
    model = AutoModelForCausalLM.from_pretrained(phi)
    with InMemoryEdit(model, str(phi), tuned[:2], method=how) as edit:
        edit.set(0.8)
        assert oracle.differing(model.state_dict(), oracle.load(tmp_path / "out")) == []
    assert oracle.differing(model.state_dict(), oracle.load(phi)) == []


@pytest.mark.parametrize("name", ["ties", "dare_ties", "model_stock", "wudi"])
def test_adapters_and_finetunes_are_merged_as_the_dense_vectors_that_they_are(tmp_path, phi, tuned, name):
    adapter = save_adapter(phi, tmp_path / "adapter")
    dense = apply(str(phi), add=[str(adapter)], dtype="float64", output_dir=tmp_path / "dense").path
    runs = [
        apply(
            str(phi),
            add=[operand, tuned[0]],
            output_dir=tmp_path / f"out{index}",
            dtype="float64",
            device=device,
            method=method(name, 0.9, **({"rescale": False} if "dare" in name else {})),
        ).path
        for index, (operand, device) in enumerate([(str(adapter), "cpu"), (str(dense), "cpu")])
    ]
    one, two = (oracle.load(path) for path in runs)
    for key in one if name != "dare_ties" else ():  # another content, another mask
        assert torch.allclose(one[key], two[key], rtol=1e-9, atol=1e-9)
    assert oracle.differing(one, {key: values.double() for key, values in oracle.load(phi).items()})


def test_the_record_the_name_the_way_back_and_the_check(tmp_path, monkeypatch, phi, tuned):
    monkeypatch.chdir(tmp_path)
    call = ["apply", str(phi), "--add", tuned[0], "--add", tuned[1], "--method", "dare_ties", "--density", "0.3"]
    assert run_cli([*call, "--seed", "7", "--no-rescale", "--normalize", "--keep-undo"]) == 0
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert folder.name == "base-plus-t21-plus-t22-dare_ties-alpha1"
    record = json.loads((folder / "taskarith.json").read_text())["method"]
    assert record == {"name": "dare_ties", "density": 0.3, "normalize": True, "rescale": False, "seed": 7}
    checked = verify(folder)
    assert checked.is_sound
    assert checked.tensors == 33
    assert checked.sampled > 10_000
    assert not checked.unsampled
    _forge(folder)
    assert verify(folder).wrong == ("model.final_layernorm.bias",)
    _forge(folder)
    assert run_cli(["undo", str(folder), "-o", "back"]) == 0
    assert fingerprint_model(tmp_path / "back") == fingerprint_model(phi)


def _forge(folder) -> None:
    """Change a bit of one tensor, or change it back, and make the record agree."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.final_layernorm.bias"].view(torch.int32)[0] ^= 1
    with safe_open(folder / "model.safetensors", "pt") as file:
        save_file(tensors, folder / "model.safetensors", file.metadata())
    record = json.loads((folder / "taskarith.json").read_text())
    with TensorReader() as reader:
        for name, entry in open_checkpoint(folder).tensors.items():
            record["tensors"][name]["fingerprint"] = reader.fingerprint(entry)
    (folder / "taskarith.json").write_text(json.dumps(record))


def run_cli(arguments) -> int:
    return CliRunner().invoke(app, arguments).exit_code


@pytest.mark.parametrize(
    ("name", "options", "add", "negate", "words"),
    [
        ("slerp", {}, 3, 0, "between two models"),
        ("slerp", {}, 1, 0, "between two models"),
        ("slerp", {}, 1, 1, "coefficients of 0 or more"),
        ("nuslerp", {}, 3, 0, "nuslerp goes between two models"),
        ("karcher", {}, 1, 1, "karcher is a mean, with coefficients of 0 or more"),
        ("karcher", {}, 1, 0, "karcher needs two fine-tunes"),
        ("model_stock", {}, 1, 0, "two fine-tunes"),
        ("sce", {}, 1, 0, "sce needs two fine-tunes"),
        ("ties", {"normalize": True}, 1, 1, "no sum to divide by"),
    ],
)
def test_operands_that_do_not_fit(tmp_path, phi, tuned, name, options, add, negate, words):
    with pytest.raises(UsageError, match=words):
        apply(
            str(phi),
            add=tuned[:add],
            negate=tuned[add : add + negate],
            output_dir=tmp_path / "out",
            method=method(name, **options),
        )


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("tie", {}, "unknown method"),
        ("ties", {}, "needs a density"),
        ("ties", {"density": 0.0}, "density is 0"),
        ("ties", {"density": 1.5}, "density is 1.5"),
        ("ties", {"density": math.nan}, "density is nan"),
        ("ties", {"density": 0.5, "seed": 1}, "has no seed"),
        ("linear", {"density": 0.5}, "has no density"),
        ("slerp", {"rescale": False}, "has no rescale"),
        ("breadcrumbs", {"density": 0.5, "gamma": 1.0}, "gamma is 1"),
        ("della", {"density": 0.1}, "epsilon is 0.15"),
        ("della", {"density": 0.5, "epsilon": -0.1}, "epsilon is -0.1"),
        ("dare_ties", {"density": 0.5, "seed": -1}, "seed is -1"),
    ],
)
def test_options_that_do_not_fit(name, options, words):
    with pytest.raises(UsageError, match=words):
        parse_method(name, **options)


@pytest.mark.parametrize("rank", [None, 0, -1])
def test_a_rank_that_is_none(rank):
    with pytest.raises(UsageError, match="rank of 1 or more"):
        method("low_rank", rank=rank)
