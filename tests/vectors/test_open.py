"""From what a user calls a vector to an opened one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from adapters import save_adapter
from bases import by_combine_alone, by_itself, name_base
from transformers import AutoModelForCausalLM

from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import CheckpointError, TaskarithError, UsageError, VectorError
from taskarith.evaluation.evaluate import evaluate
from taskarith.inspection.inspect import inspect
from taskarith.relations.relate import relate
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


@pytest.mark.parametrize("name", ["/data/models/gone", "org/absent", None])
def test_plain_factors_need_no_base(room, name):
    adapter = save_adapter(room / "base", room / "adapter", target_modules=["q_proj"])
    name_base(adapter, name)
    assert apply(str(room / "other"), add=[str(adapter)], output_dir="out").actions["edited"] == 2
    assert combine(f"{adapter}:0.5 - {adapter}", "sum", base=str(room / "other")).kind == "lora"
    for verb in (by_itself, by_combine_alone):
        with pytest.raises(TaskarithError, match=str(adapter)) as caught:
            verb(room, str(adapter))
        assert "MODEL" in caught.value.hint


def test_a_model_with_an_adapter_in_its_folder_is_refused_everywhere(room, book):
    adapter = save_adapter(room / "base", room / "adapter", target_modules=["q_proj"])
    both = Path(shutil.copytree(room / "other", room / "both"))
    shutil.copy(adapter / "adapter_config.json", both)
    base, name = str(room / "base"), str(both)
    calls = [
        lambda: apply(name, add=[str(adapter)], output_dir="out"),
        lambda: apply(base, add=[name], output_dir="out"),
        lambda: apply(base, add=[f"{name}@@{base}"], output_dir="out"),
        lambda: extract(base, name, "v.safetensors"),
        lambda: extract(name, str(room / "tuned"), "v.safetensors"),
        lambda: extract_low_rank(base, name, "lora", rank=2),
        lambda: combine(name, "c.safetensors", base=base),
        lambda: relate([name, name], model=base),
        lambda: evaluate([name], {"a": str(book)}, prompts=0, block_size=16),
        lambda: inspect(name),
    ]
    for weights in (False, True):  # what travelled with an older release, and what trainers leave
        if weights:
            shutil.copy(adapter / "adapter_model.safetensors", both)
        for call in calls:
            with pytest.raises(CheckpointError, match=r"holds a model .* and an adapter") as caught:
                call()
            assert "folder of their own" in caught.value.hint
    assert list(Path().iterdir()) == []


def test_an_adapter_below_a_model_stays_behind(room):
    adapter = save_adapter(room / "base", room / "base/checkpoint-3", target_modules=["q_proj"])
    result = apply(str(room / "base"), add=[str(adapter)], output_dir="out")
    assert not list(Path("out").rglob("adapter_*"))
    assert any("checkpoint-3/adapter_config.json" in remark for remark in result.remarks)
    AutoModelForCausalLM.from_pretrained("out")


def test_what_needs_no_base_is_given_none(room):
    extract(str(room / "base"), str(room / "tuned"), room / "v.safetensors")
    with pytest.raises(UsageError, match="is a task vector"):
        apply(str(room / "base"), add=[f"{room / 'v.safetensors'}@@{room / 'other'}"], output_dir="out")
    with pytest.raises(UsageError, match="as its own base"):
        apply(str(room / "base"), add=[f"{room / 'tuned'}@@{room / 'tuned'}"], output_dir="out")
    with pytest.raises(VectorError, match="there is no vector"):
        apply(str(room / "base"), add=[f"gone@@{room / 'base'}"], output_dir="out")
    with pytest.raises(CheckpointError, match="there is no model folder gone"):
        apply(str(room / "base"), add=[f"{room / 'tuned'}@@gone"], output_dir="out")
