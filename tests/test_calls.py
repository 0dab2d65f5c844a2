"""How the verbs may be called."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import tiny

import taskarith
from taskarith.calls import listed, named, renamed
from taskarith.checkpoints.provenance import read_provenance


def test_one_text_or_path_is_a_list_of_one():
    assert listed("forget.txt") == listed(Path("forget.txt")) == listed(["forget.txt"]) == ["forget.txt"]
    assert listed(()) == []
    assert listed((Path("a"), "b")) == ["a", "b"]


def test_verbs_take_paths_for_models_and_texts(tmp_path, phi, phi_tuned):
    """Of a path, part of the name was once taken for a model of the hub, and a reference's rows were lost."""
    data = {}
    for seed, name in enumerate(("forget", "retain")):
        data[name] = tmp_path / f"{name}.txt"
        data[name].write_text(tiny.text(60, seed))
    measured = {"block_size": 24, "prompts": 2, "prompt_tokens": 4, "continuation_tokens": 4}
    vector = taskarith.extract(phi, phi_tuned, tmp_path / "v.safetensors").path
    assert taskarith.apply(phi_tuned, negate=vector, output_dir=tmp_path / "edited").path.is_dir()
    scores = taskarith.evaluate(phi_tuned, data, reference=phi, **measured).scores.by_text
    assert scores.keys() == {str(phi), str(phi_tuned)}
    out, told = tmp_path / "swept", {"negate": vector, "alphas": [0, 1]}
    swept = taskarith.sweep(phi_tuned, data, reference=phi, output_dir=out, **told, **measured)
    assert len(swept.rows) == 2
    edited = taskarith.evaluate(phi_tuned, data, output_dir=tmp_path / "measured", **told, **measured)
    assert len(edited.scores.by_text) == 2
    for folder in (out, tmp_path / "measured"):  # once the letters of the path were recorded as vectors
        assert read_provenance(folder)["edit"]["negate"] == ["../v.safetensors"]
    known = taskarith.combine(f"{vector} + {vector}", tmp_path / "twice.safetensors"), taskarith.verify(vector)
    assert [repr(one).partition("(")[0] for one in known] == ["CombineResult", "Verification"]
    assert max(len(repr(one)) for one in known) < 400
    quick = {"relearn_steps": (1,), "relearn_epochs": 0, "bits": (4,), "prefixes": (2,), "draws": 0}
    taskarith.attack(tmp_path / "edited", data["forget"], before=phi_tuned, reference=phi, **quick, **measured)
    planned = taskarith.unlearn(phi_tuned, *data.values(), tmp_path / "run", base=phi, reference=phi, dry_run=True)
    assert str(phi_tuned) in planned.commands[0]
    assert named(None) is None


def test_an_old_name_works_with_a_warning_and_never_beside_the_new_one():
    @renamed(retain="reference")
    def measure(model, *, reference=None):
        return model, reference

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure("m", reference="r") == ("m", "r")
    with pytest.warns(DeprecationWarning, match="retain= is called reference= now"):
        assert measure("m", retain="r") == ("m", "r")
    with pytest.raises(TypeError, match="reference= is given twice"):
        measure("m", retain="r", reference="s")
