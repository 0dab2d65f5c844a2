"""Which model a vector is a difference to: a recorded fingerprint decides, else the user says it; no verb guesses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from adapters import save_adapter
from bases import COMMIT, HUB, base_of, by_combine_alone, by_itself, difference, name_base, norm, record
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import MismatchError, TaskarithError, UsageError
from taskarith.evaluation.evaluate import evaluate
from taskarith.inspection.inspect import inspect
from taskarith.inspection.verify import verify
from taskarith.relations.relate import relate
from taskarith.spec import OperandRef
from taskarith.sweeps.sweep import sweep
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


def cached(room):
    """Move the base into a hub cache."""
    repository = room / "hub/models--org--m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    shutil.move(room / "base", repository / "snapshots" / COMMIT)


def by_apply(room, operand):
    apply(str(room / "other"), add=[operand], output_dir="out", dtype="float64")
    return difference(oracle.load(Path("out")), oracle.load(room / "other"))


def by_negating(room, operand):
    apply(str(room / "other"), negate=[f"{operand}:2"], output_dir="out", dtype="float64")
    return difference(oracle.load(Path("out")), oracle.load(room / "other")) / 2


def by_recipe(room, operand):
    vector, _, base = operand.partition("@@")
    one = {"vector": vector, "coefficient": 0.5} | ({"base": base} if base else {})
    Path("r.yaml").write_text(json.dumps({"model": str(room / "other"), "operands": [one], "dtype": "float64"}))
    result = CliRunner().invoke(app, ["apply", "--config", "r.yaml", "-o", "out"])
    if result.exit_code:
        raise MismatchError(result.stderr, "")
    return difference(oracle.load(Path("out")), oracle.load(room / "other")) * 2


def by_python(room, operand):
    vector, _, base = operand.partition("@@")
    apply(str(room / "other"), operands=[OperandRef(vector, 1.0, base=base)], output_dir="out", dtype="float64")
    return difference(oracle.load(Path("out")), oracle.load(room / "other"))


def by_combine(room, operand):
    combine(f"{operand}:2", "c.safetensors", base=str(room / "other"), dtype="float64")
    return norm(load_file("c.safetensors").values()) / 2


def in_memory(room, operand):
    model = AutoModelForCausalLM.from_pretrained(room / "other", dtype=torch.float32)
    InMemoryEdit(model, str(room / "other"), add=[operand]).set(1.0)
    return difference(model.state_dict(), oracle.load(room / "other"))


def by_relate(room, operand):
    return relate([operand, operand], model=str(room / "other")).weights.group().norms[0]


def by_relate_alone(room, operand):
    return relate([operand, f"{operand}:0.5"]).weights.group().norms[0]


def by_extract(room, operand):
    vector, _, base = operand.partition("@@")
    return extract(base or None, vector, "v.safetensors", dtype="float64").norm


def by_extract_exact(room, operand):
    vector, _, base = operand.partition("@@")
    found = extract(base or None, vector, "v.safetensors", exact=True)
    assert found.base.fingerprint == fingerprint_model(base_of(room))
    return found.norm


def by_extract_rank(room, operand):
    vector, _, base = operand.partition("@@")
    found = extract_low_rank(base or None, vector, "lora", rank=4)
    assert found.base.fingerprint == fingerprint_model(base_of(room))
    return room.norm


VERBS = [by_apply, by_negating, by_itself, by_recipe, by_python, by_combine, by_combine_alone, in_memory, by_relate]
VERBS += [by_relate_alone, by_extract, by_extract_exact, by_extract_rank]


def at_its_place(room):
    return room / "tuned"


def moved_and_named(room):
    shutil.move(room / "base", room / "moved")
    return f"{room / 'tuned'}@@{room / 'moved'}"


def replaced_and_named(room):
    shutil.move(room / "base", room / "moved")
    shutil.copytree(room / "other", room / "base")
    return f"{room / 'tuned'}@@{room / 'moved'}"


def unrecorded_and_named(room):
    return f"{tiny.forget_base(room / 'tuned')}@@{room / 'base'}"


def unrecorded_with_a_relative_base(room):
    return f"{tiny.forget_base(room / 'tuned')}@@{os.path.relpath(room / 'base')}"


def unrecorded_with_a_base_on_the_hub(room):
    cached(room)
    return f"{tiny.forget_base(room / 'tuned')}@@{HUB}@{COMMIT}"


def recorded_on_the_hub(room):
    cached(room)
    record(room / "tuned", HUB, base_of(room), COMMIT)
    return room / "tuned"


def recorded_on_the_hub_without_a_commit(room):
    cached(room)
    record(room / "tuned", HUB, base_of(room))
    return room / "tuned"


def recorded_relative_to_the_fine_tune(room):
    record(room / "tuned", "../base", room / "base")
    return room / "tuned"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "situation",
    [
        at_its_place,
        moved_and_named,
        replaced_and_named,
        unrecorded_and_named,
        unrecorded_with_a_relative_base,
        unrecorded_with_a_base_on_the_hub,
        recorded_on_the_hub,
        recorded_on_the_hub_without_a_commit,
        recorded_relative_to_the_fine_tune,
    ],
)
def test_the_delta_is_the_difference_to_the_right_base(room, situation, verb):
    operand = str(situation(room))
    assert verb(room, operand) == pytest.approx(room.norm, rel=1e-4)


def replaced(room):
    shutil.move(room / "base", room / "moved")
    shutil.copytree(room / "other", room / "base")


def gone(room):
    shutil.move(room / "base", room / "moved")


def other_on_the_hub(room):
    record(room / "tuned", HUB, room / "base", COMMIT)
    shutil.move(room / "base", room / "moved")
    shutil.copytree(room / "other", room / "base")
    cached(room)


def not_on_the_hub(room):
    record(room / "tuned", HUB, room / "base", COMMIT)
    shutil.move(room / "base", room / "moved")


def unrecorded(room):
    tiny.forget_base(room / "tuned")
    config = json.loads((room / "tuned/config.json").read_text())
    (room / "tuned/config.json").write_text(json.dumps(config | {"_name_or_path": str(room / "base")}))


LOST = [(one, verb) for one in (replaced, gone, other_on_the_hub, not_on_the_hub, unrecorded) for verb in VERBS]
LOST = [
    pair for pair in LOST if pair not in {(unrecorded, by_combine), (unrecorded, by_relate)}
]  # --base, --model say it


@pytest.mark.parametrize(("situation", "verb"), LOST)
def test_a_base_that_is_not_there_is_refused_by_name(room, situation, verb):
    situation(room)
    with pytest.raises(TaskarithError, match=str(room / "tuned")) as caught:
        verb(room, str(room / "tuned"))
    assert says_how(caught.value)
    assert not {path.name for path in Path().iterdir()} - {"r.yaml"}


def says_how(error):
    """Whether an error says how to name the base."""
    ways = ("@@BASE", "apply MODEL", "extract BASE", "--base MODEL", "--model MODEL")
    return any(way in f"{error.message} {error.hint}" for way in ways)


def test_the_model_at_hand_is_the_base_if_it_has_the_fingerprint(room):
    replaced(room)
    result = apply(str(room / "moved"), add=[str(room / "tuned")], output_dir="out")
    assert result.remarks == ()
    assert oracle.differing(oracle.load(Path("out")), oracle.load(room / "tuned")) == []
    record = json.loads(Path("out/taskarith.json").read_text())
    assert record["operands"][0]["base"] == record["base"]
    assert Path("out", record["base"]["name"]).resolve() == room / "moved"
    combine(str(room / "tuned"), "c.safetensors", base=str(room / "moved"), dtype="float64")
    assert norm(load_file("c.safetensors").values()) == pytest.approx(room.norm)


def test_an_exact_vector_is_read_with_the_base_of_its_fingerprint(room):
    extract(str(room / "base"), str(room / "tuned"), room / "x.safetensors", exact=True)
    wanted = oracle.load(room / "tuned")
    replaced(room)
    apply(str(room / "moved"), add=[str(room / "x.safetensors")], output_dir="one")
    assert oracle.differing(oracle.load(Path("one")), wanted) == []
    named = f"{room / 'x.safetensors'}@@{room / 'moved'}"
    apply(str(room / "other"), add=[named], output_dir="two", dtype="float64")
    moved = difference(oracle.load(Path("two")), oracle.load(room / "other"))
    assert moved == pytest.approx(room.norm)
    assert verify("two").is_sound
    for operand in (str(room / "x.safetensors"), f"{room / 'x.safetensors'}@@{room / 'base'}"):
        with pytest.raises(
            MismatchError, match=r"was made from .*neither .* nor .* \(33 of 33 tensors differ\) is that"
        ):
            apply(str(room / "other"), add=[operand], output_dir="no")
    assert "was made from" in inspect(room / "x.safetensors").remarks[0]


def test_a_vector_without_a_model_is_not_applied_to_what_lies_there_now(room):
    for name, options in (("v", {}), ("k", {"top_k": 0.5}), ("q", {"bits": 8})):
        extract(str(room / "base"), str(room / "tuned"), room / f"{name}.safetensors", **options)
    replaced(room)
    for name in "vkq":
        vector = str(room / f"{name}.safetensors")
        for dry_run in (True, False):
            with pytest.raises(
                MismatchError, match=r"another model is there now \(33 of 33 tensors differ\)"
            ) as caught:
                apply(negate=[vector], output_dir="out", dry_run=dry_run)
            assert caught.value.hint == f"Name the model: taskarith apply MODEL --negate {vector}"
        with pytest.raises(MismatchError, match="another model is there now"):
            combine(vector, "c.safetensors")
        with pytest.raises(MismatchError, match="another model is there now"):
            relate([vector, vector])
    assert list(Path().iterdir()) == []
    result = apply(str(room / "base"), negate=[str(room / "v.safetensors")], output_dir="out")
    assert "was made from" in result.remarks[0]  # named, and said


def test_one_tensor_that_changed_late_in_the_files_is_found_before_anything_is_published(room):
    """The smallest tensors are compared before, everything afterwards."""
    big = max(load_file(room / "base/model.safetensors").items(), key=lambda one: one[1].numel())[0]
    extract(str(room / "base"), str(room / "tuned"), room / "v.safetensors")
    tensors = load_file(room / "base/model.safetensors")
    tensors[big][-1] += 1
    save_file(tensors, room / "base/model.safetensors", metadata={"format": "pt"})
    for operand in ("v.safetensors", "tuned"):
        with pytest.raises(MismatchError, match="another model is there now"):
            apply(add=[str(room / operand)], output_dir="out")
    with pytest.raises(MismatchError, match="another model is there now"):
        apply(str(room / "base"), add=[str(room / "tuned")], output_dir="out")
    assert list(Path().iterdir()) == []


def test_another_base_than_the_recorded_one_may_be_named_and_is_said(room):
    found = extract(str(room / "other"), str(room / "tuned"), "v.safetensors")
    said = f"{room / 'tuned'} was made from {room / 'base'}, not from {room / 'other'}"
    assert found.remarks == (said,)
    assert extract_low_rank(str(room / "other"), str(room / "tuned"), "lora", rank=2).remarks == (said,)
    assert extract(str(room / "base"), str(room / "tuned"), "w.safetensors").remarks == ()
    result = apply(str(room / "base"), add=[f"{room / 'tuned'}@@{room / 'other'}"], output_dir="out")
    assert f"{room / 'tuned'} was made from {room / 'other'}, not from {room / 'base'} (33 of 33" in result.remarks[0]
    assert f"records that it was made from {room / 'base'}" in result.remarks[1]
    done = CliRunner().invoke(app, ["extract", str(room / "other"), str(room / "tuned"), "-o", "u.safetensors"])
    assert f"note: {said}" in done.stderr


def test_the_two_commands_that_say_what_the_base_is_are_given(room):
    tiny.forget_base(room / "tuned")
    model, tuned = room / "other", room / "tuned"
    with pytest.raises(UsageError) as caught:
        apply(str(model), negate=[f"{tuned}:0.5"], output_dir="out")
    assert f"{tuned} does not record its base, and nothing says that it was made from {model}" in caught.value.message
    assert f"--negate {tuned}@@{model}:0.5; " in caught.value.hint
    assert caught.value.hint.endswith(f"--negate {tuned}@@BASE:0.5")
    apply(str(model), negate=[f"{tuned}@@{model}:0.5"], output_dir="out")
    with pytest.raises(UsageError, match="does not record its base") as caught:
        combine(f"{tuned} - {tuned}@@{model}:0.5", "c.safetensors")
    assert f"{tuned}@@BASE" in caught.value.hint
    assert "--base" in caught.value.hint
    found = combine(f"{tuned} - {tuned}:0.5", "c.safetensors", base=str(room / "base"), dtype="float64")
    assert inspect(found.path).norm == pytest.approx(room.norm / 2)


def test_a_chat_model_on_a_model_that_was_trained_further(room):
    """The commonest case of the hub: without a base the delta would give the chat model itself."""
    chat = tiny.forget_base(room / "tuned")
    result = apply(str(room / "other"), add=[f"{chat}@@{room / 'base'}"], output_dir="out")
    before, after, further = (oracle.load(room / name) for name in ("base", "tuned", "other"))
    wanted = {
        n: oracle.edit(further[n], [after[n].double() - before[n].double()], [1.0], torch.float32) for n in before
    }
    assert oracle.differing(oracle.load(Path("out")), wanted) == []
    assert result.remarks == (
        f"{chat} was made from {room / 'base'}, not from {room / 'other'} (33 of 33 tensors differ)",
    )
    assert verify("out").is_sound
    assert verify("out").unsampled == ""
    again = apply_config("out/taskarith.json", "again")
    assert again.exit_code == 0, again.stderr
    assert fingerprint_model(Path("again")) == fingerprint_model(Path("out"))
    shutil.move(room / "base", room / "moved")
    shutil.copytree(room / "other", room / "base")
    assert apply_config("out/taskarith.json", "no").exit_code == 1
    assert "cannot be opened" in verify("out").unsampled


def apply_config(record, output):
    return CliRunner().invoke(app, ["apply", "--config", record, "-o", output])


def test_an_output_whose_base_was_another_model_than_recorded_is_not_sound(room):
    """As releases before fingerprints decided wrote it."""
    tuned, base = room / "tuned", room / "base"
    replaced(room)
    for model in (base, room / "moved"):
        place = apply(str(model), add=[f"{tuned}@@{base}"], output_dir=f"out-{model.name}").path
        assert verify(place).is_sound
        written = json.loads((place / "taskarith.json").read_text())
        written["operands"][0]["base"] = json.loads((tuned / "taskarith.json").read_text())["base"]
        (place / "taskarith.json").write_text(json.dumps(written))
        found = verify(place)
        assert len(found.wrong) > 10
        assert not found.is_sound


def test_eval_and_sweep_refuse_and_say_which_base_they_take(room, book):
    tuned, model = room / "tuned", str(room / "other")
    texts, small = {"forget": str(book), "retain": str(book)}, {"prompts": 0, "block_size": 16}
    tiny.forget_base(tuned)
    for verb in (lambda operand: evaluate([model], texts, negate=[operand], **small), sweep_with(model, texts, small)):
        with pytest.raises(UsageError, match="does not record its base"):
            verb(str(tuned))
    notes: list[str] = []
    listener = type("Notes", (), {"note": lambda _, text: notes.append(text), "progress": lambda *_: None})()
    operand = f"{tuned}@@{room / 'base'}"
    evaluate([model], texts, negate=[operand], alphas=[1.0], **small, listener=listener)
    assert f"{tuned} is taken as the difference to {room / 'base'}" in notes
    found = sweep_with(model, texts, small)(operand)
    row = found.rows[-1]
    assert row.operands[0].base == str(room / "base")
    record(tuned, room / "base", room / "base")
    replaced(room)
    with pytest.raises(MismatchError, match="was made from"):
        evaluate([model], texts, negate=[str(tuned)], **small)


def sweep_with(model, texts, small):
    return lambda operand: sweep(model, texts, negate=[operand], alphas=[0.5], **small)


@pytest.fixture
def saved(room):
    """An adapter with a saved module, and the norm of its delta."""
    adapter = save_adapter(room / "base", room / "adapter", target_modules=["q_proj"], modules_to_save=["lm_head"])
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(one for one in weights if one.endswith("lm_head.weight"))
    weights[name] += 0.5
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    apply(str(room / "base"), add=[str(adapter)], output_dir=room / "merged", dtype="float64")
    return adapter, difference(oracle.load(room / "merged"), oracle.load(room / "base"))


@pytest.mark.parametrize("place", ["absolute", "relative to here", "relative to the adapter", "hub", "named", "model"])
@pytest.mark.parametrize("verb", [by_apply, in_memory, by_combine, by_recipe])
def test_what_an_adapter_saves_is_compared_with_its_own_base(room, saved, verb, place):
    adapter, expected = saved
    operand = str(adapter)
    if place == "relative to here":
        name_base(adapter, os.path.relpath(room / "base"))
    elif place == "relative to the adapter":
        shutil.move(room / "base", adapter / "base")
        name_base(adapter, "base")
    elif place == "hub":
        cached(room)
        name_base(adapter, HUB)
    elif place == "named":
        shutil.move(room / "base", room / "moved")
        name_base(adapter, HUB)
        operand = f"{adapter}@@{room / 'moved'}"
    elif place == "model":  # the model at hand is the base, under another name
        shutil.rmtree(room / "other")
        shutil.copytree(room / "base", room / "other")
    assert verb(room, operand) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["/data/models/gone", "org/absent", "base", None])
@pytest.mark.parametrize("verb", [by_apply, by_negating, by_python, in_memory, by_relate_alone, by_combine_alone])
def test_an_adapter_that_needs_its_base_is_refused_without(room, saved, verb, name):
    adapter, _ = saved
    name_base(adapter, name)
    with pytest.raises(TaskarithError, match=str(adapter)) as caught:
        verb(room, str(adapter))
    assert says_how(caught.value)
    assert name is None or name in caught.value.message


def test_an_adapter_with_a_recorded_fingerprint_is_measured_on_no_other_base(room, book):
    adapter = save_adapter(room / "base", room / "adapter", target_modules=["q_proj"])
    record(adapter, room / "base", room / "base")
    evaluate([str(adapter)], {"a": str(book)}, prompts=0, block_size=16)
    replaced(room)
    with pytest.raises(MismatchError, match="another model is there now"):
        evaluate([str(adapter)], {"a": str(book)}, prompts=0, block_size=16)
    with pytest.raises(MismatchError, match="another model is there now"):
        apply(add=[str(adapter)], output_dir="out")
