"""Models spread over several devices: the numbers of one device, edited where each weight is."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from adapters import save_adapter
from commands import invoke
from safetensors.torch import load_file
from torch.utils._pytree import tree_leaves
from two_devices import FIRST, SECOND, two_devices

from taskarith.attacks.attack import attack
from taskarith.checkpoints.team import ALONE, Team
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.errors import CheckpointError, MismatchError, UsageError
from taskarith.evaluation import models
from taskarith.evaluation.evaluate import evaluate
from taskarith.models import device as devices
from taskarith.models.device import own_device
from taskarith.models.load import load_model
from taskarith.models.runtime import Runtime
from taskarith.relations.importance import importance
from taskarith.relations.out_of_domain import out_of_domain
from taskarith.relations.relate import relate
from taskarith.sweeps.sweep import sweep

HALVES = {"model.embed_tokens": FIRST, "model.rotary_emb": FIRST, "model.layers.0": FIRST, "model.layers.1": SECOND}
MAPS = {
    "phi": HALVES | {"model.final_layernorm": SECOND, "lm_head": SECOND},
    "llama": HALVES | {"model.norm": SECOND, "lm_head": FIRST},  # tied to the embedding
    "moe": HALVES | {"model.norm": SECOND, "lm_head": SECOND},  # its experts are joined in memory
}


@pytest.fixture
def kind(request):
    return request.param


@pytest.fixture
def files(tmp_path, kind):
    base = tiny.save_model(tmp_path / "base", kind)
    found = {"base": base, "tuned": tiny.save_model(tmp_path / "tuned", kind, nudge_of=base, seed=1)}
    found["other"] = tiny.save_model(tmp_path / "other", kind, nudge_of=base, seed=2)
    for name, seed in (("forget", 1), ("holdout", 2)):
        found[name] = tmp_path / f"{name}.txt"
        found[name].write_text(tiny.text(8, seed), encoding="utf-8")
    return {name: str(path) for name, path in found.items()}


@pytest.fixture
def spread(monkeypatch, kind):
    """Return a call of a verb with all models on one device, or spread over two."""
    load = models.load_model

    def place(path, dtype, *, device_map=None, **how):
        model = load(path, dtype, **how)
        model.set_attn_implementation("eager")
        return dispatch_model(model, MAPS[kind], main_device=FIRST) if device_map else model

    def call(verb, *, on_two):
        monkeypatch.setattr(models, "load_model", place)
        if not on_two:
            return verb(device="cpu")
        monkeypatch.setattr(devices, "choose_device", lambda _: FIRST)
        monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # which wrapped tensors do not know
        with two_devices():
            return verb(device_map="auto")

    return call


SMALL = {"block_size": 24, "prompts": 1, "prompt_tokens": 4, "continuation_tokens": 3}


def evaluated(files, folder, **how):
    texts = {name: files[name] for name in ("forget", "holdout")}
    return evaluate(
        [files["base"]], texts, negate=[files["tuned"]], **SMALL, draws=1, gradient_norms=True, lens=2, **how
    ).records


def attacked(files, folder, **how):
    sizes = {"relearn_steps": (1,), "relearn_epochs": 0, "prefixes": (4,), "draws": 0, "bits": ("nf4",)}
    return attack(files["tuned"], files["forget"], before=files["base"], **sizes, **SMALL, **how).records


def swept(files, folder, **how):
    texts = {"forget": files["forget"], "retain": files["holdout"]}
    result = sweep(files["base"], texts, negate=[files["tuned"]], gradient=1, kl=0.5, target=6.0, **SMALL, **how)
    return result.records, [(trial.values, trial.point.forget_loss, trial.point.keep_loss) for trial in result.trials]


def related(files, folder, **how):
    texts = {"a": files["forget"], "b": files["holdout"]}
    vectors = [files["tuned"], files["other"]]
    return relate(vectors, model=files["base"], data=texts, block_size=16, inputs=4, **how).to_json()


def out(files, folder, **how):
    vectors = [files["tuned"], files["other"]]
    target = {"target": files["forget"]}
    return out_of_domain(vectors, model=files["base"], data=target, block_size=16, inputs=2, **how).to_json()


def adapted(files, folder, **how):
    adapter = str(save_adapter(Path(files["base"]), folder / "adapter"))
    return evaluate([adapter], {"a": files["forget"]}, **SMALL, **how).records


def weighed(files, folder, **how):
    result = importance(
        files["base"], files["forget"], files["holdout"], folder / "w.safetensors", overwrite=True, block_size=24, **how
    )
    return {name: values.tolist() for name, values in load_file(result.path).items()}


VERBS = {"phi": (adapted, attacked, evaluated, out, related, swept), "llama": (evaluated, weighed)}


@pytest.mark.parametrize(
    ("kind", "verb"),
    [(kind, verb) for kind, verbs in VERBS.items() for verb in verbs],
    indirect=["kind"],
)
def test_two_devices_give_the_numbers_of_one(verb, files, spread, tmp_path, monkeypatch):
    # of autocast torch knows nothing for the kind of these devices
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    one, two = (spread(partial(verb, files, tmp_path), on_two=on_two) for on_two in (False, True))
    numbers, others = zip(*map(separated, (one, two)), strict=True)
    assert others[0] == others[1]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-4, abs=1e-5)  # gradients may be added in another order


def separated(result):
    """Return all floats of a nested result, and everything else."""
    leaves = tree_leaves(result)
    floats = [leaf for leaf in leaves if isinstance(leaf, float)]
    return floats, [leaf for leaf in leaves if not isinstance(leaf, float)]


@pytest.mark.parametrize("kind", ["llama", "moe"], indirect=True)
def test_weights_are_edited_where_they_are(kind, files):
    edited = []
    for on_two in (False, True):
        with two_devices() if on_two else contextlib.nullcontext():
            model = load_model(Path(files["base"]), torch.float32)
            if on_two:
                dispatch_model(model, MAPS[kind], main_device=FIRST)
            with InMemoryEdit(model, files["base"], negate=[f"{files['tuned']}@@{files['base']}"]) as memory:
                memory.set(0.5)
                edited.append({name: values.cpu().clone() for name, values in model.state_dict().items()})
            devices = {values.device for values in model.state_dict().values()}
    assert devices == {FIRST, SECOND}
    assert all(torch.equal(values, edited[1][name]) for name, values in edited[0].items())


def test_tensors_of_two_devices_do_not_mix():
    with two_devices():
        assert (torch.ones(2, device=FIRST) + torch.ones(2).to(FIRST)).tolist() == [2, 2]
        for other in (SECOND, torch.device("cpu")):
            with pytest.raises(RuntimeError, match="takes tensors on one device"):
                torch.ones(2, device=FIRST) + torch.ones(2, device=other)


@pytest.mark.parametrize("offload", [cpu_offload, disk_offload])
def test_offloaded_weights_are_not_edited(offload, phi, phi_tuned, tmp_path):
    model = load_model(phi, torch.float32)
    where = {"offload_dir": str(tmp_path / "offload")} if offload is disk_offload else {}
    offload(model, execution_device=torch.device("cpu"), **where)
    with pytest.raises(MismatchError, match="is offloaded to CPU memory or the disk"):
        InMemoryEdit(model, str(phi), negate=[str(phi_tuned)])


def test_a_model_that_the_gpus_cannot_hold_is_refused(phi):
    with pytest.raises(CheckpointError, match=r"the GPUs cannot hold .* of its 33 weights would be in CPU memory"):
        load_model(phi, torch.float32, device_map={"": "cpu"})


def test_a_device_map_without_several_devices_is_refused(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    two = Team(0, 2)
    for device, team, message in (
        ("auto", ALONE, "spreads a model over all GPUs, but --device auto is cpu here"),
        ("cpu", two, "but --device cpu is one device"),
        ("cuda:1", ALONE, "but --device cuda:1 is one device"),
        ("cuda", two, "gives all GPUs to one process, but 2 were started"),
    ):
        with pytest.raises(UsageError, match=f"--device-map balanced .*{message}"):
            own_device(Runtime(device=device, device_map="balanced"), team)
    with pytest.raises(UsageError, match="unknown --device-map even"):
        own_device(Runtime(device="cuda", device_map="even"), ALONE)
    assert own_device(Runtime(device="cuda", device_map="auto"), ALONE) == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert own_device(Runtime(device="cuda"), two) == torch.device("cuda", 1)


@pytest.mark.parametrize("verb", ["eval", "importance"])
def test_the_commands_refuse_a_device_map_on_a_cpu(verb, phi, book, tmp_path):
    given = {"eval": ["--data", f"a={book}"], "importance": ["--forget", book, "--retain", book]}
    done = invoke(verb, phi, *given[verb], "--device", "cpu", "--device-map", "auto", "-o", tmp_path / "out")
    assert done.exit_code == 2
    assert "--device-map auto spreads a model over all GPUs, but --device cpu is one device" in done.stderr
    assert not (tmp_path / "out").exists()
