"""Names that differ by a rule are explained, with the command that renames them."""

from __future__ import annotations

import json
import shutil

import oracle
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from two_sides import EMBED, HEAD, make, run_hint

from taskarith.edit.apply import apply
from taskarith.errors import MismatchError
from taskarith.vectors.extract import extract


def renamed(rename):
    return lambda tensors: {rename(name): t for name, t in tensors.items()}


def nested(name):
    return name.replace("model.", "model.language_model.", 1)


NAMES = {
    "torch.compile": (renamed(lambda n: f"_orig_mod.{n}"), "tuned have '_orig_mod.' in them"),
    "torch.compile of layers": (renamed(lambda n: n.replace("layers.0", "layers.0._orig_mod")), "'_orig_mod.' in them"),
    "FSDP": (renamed(lambda n: n.replace("layers.0.", "layers.0._fsdp_wrapped_module.")), "'_fsdp_wrapped_module.' in"),
    "DataParallel": (renamed(lambda n: f"module.{n}"), "tuned begin with 'module.'"),
    "both": (renamed(lambda n: f"_orig_mod.module.{n}"), "tuned begin with '_orig_mod.module.'"),
    "without model.": (renamed(lambda n: n.removeprefix("model.")), "tuned lack 'model.' in front"),
    "another part": (renamed(nested), "tuned begin with 'model.language_model.' in place of 'model.'"),
    "doubled": (renamed(lambda n: n.replace("up_proj.", "up_proj.up_proj.")), "a part twice, as 'up_proj.up_proj'"),
    "compiled, head stored": (
        lambda tensors: {f"_orig_mod.{n}": t for n, t in (tensors | {HEAD: tensors[EMBED]}).items()},
        "'_orig_mod.' in them",
    ),
}  # fmt: skip


def in_many_shards(folder):
    tensors, index = load_file(folder / "model.safetensors"), {}
    for number, (name, tensor) in enumerate(tensors.items()):
        index[name] = f"model-{number + 1:05}-of-{len(tensors):05}.safetensors"
        save_file({name: tensor}, folder / index[name])
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


@pytest.mark.parametrize("case", NAMES)
def test_names_that_differ_by_a_rule_are_explained(tmp_path, pair, case):
    base, tuned = pair
    change, words = NAMES[case]
    other = make(tuned, tmp_path / "tuned", change)
    with pytest.raises(MismatchError, match=r"tensors of .*tuned are not in") as caught:
        extract(str(base), str(other), tmp_path / "v.safetensors")
    assert words in caught.value.message
    assert "python -c" in caught.value.hint


@pytest.mark.parametrize("case", ["compiled, head stored", "without model.", "another part", "doubled"])
def test_the_command_that_is_proposed_renames_the_tensors(tmp_path, pair, case):
    base, tuned = pair
    other = make(tuned, tmp_path / "it's tuned", NAMES[case][0])
    if case == "another part":
        in_many_shards(other)
    with pytest.raises(MismatchError) as caught:
        extract(str(base), str(other), tmp_path / "v.safetensors")
    made = run_hint(caught.value.hint, tmp_path)
    assert made.name == "it's tuned-renamed"
    extract(str(base), str(made), tmp_path / "v.safetensors")
    extract(str(base), str(tuned), tmp_path / "w.safetensors")
    assert oracle.differing(load_file(tmp_path / "v.safetensors"), load_file(tmp_path / "w.safetensors")) == []


def test_other_differences_are_not_called_a_matter_of_names(tmp_path, pair):
    base, tuned = pair
    for change in (
        lambda tensors: {f"module.{n}": t for n, t in tensors.items() if "layers.1" not in n},
        lambda tensors: tensors | {n.replace("layers.1", "layers.2"): t for n, t in tensors.items() if "layers.1" in n},
        lambda tensors: {n: t for n, t in tensors.items() if "norm" not in n} | {"mtp.fc.weight": torch.ones(4, 4)},
    ):
        other = make(tuned, tmp_path / "other", change)
        with pytest.raises(MismatchError, match="are not in") as caught:
            extract(str(base), str(other), tmp_path / "v.safetensors")
        assert "the names of" not in caught.value.message
        assert "python" not in caught.value.hint
        shutil.rmtree(other)


@pytest.mark.parametrize("case", ["torch.compile", "another part", "doubled", "compiled, head stored"])
def test_a_model_whose_names_differ_from_the_vector_s_by_a_rule(tmp_path, pair, case):
    base, tuned = pair
    vector = str(extract(str(base), str(tuned), tmp_path / "v.safetensors").path)
    model = make(base, tmp_path / "model", NAMES[case][0])
    with pytest.raises(
        MismatchError, match=r"tensors of .*v\.safetensors are not in .*model: .*; the names of"
    ) as caught:
        apply(str(model), add=[vector], output_dir=tmp_path / "out")
    assert "which makes the folder model-renamed: python -c" in caught.value.hint
    other = tiny.save_model(tmp_path / "qwen2", "qwen2")
    with pytest.raises(MismatchError) as caught:
        apply(str(other), add=[vector], output_dir=tmp_path / "out")
    assert "apply it to a model of that architecture" in caught.value.hint
