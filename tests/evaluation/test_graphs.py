"""Passes recorded as on a GPU, by a stand-in that repeats operators on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from decoding_rows import DECODED, LIMIT, WINDOWS, decoded, generated, model_of, rows
from evaluating import tiny_model

from benchmarks.architectures.recording import cannot_be_recorded, recorded
from taskarith.evaluation import decoding, graphs
from taskarith.evaluation.graphs import Graphs, can_record
from taskarith.evaluation.grouping import decodes_alike


@pytest.fixture
def llama():
    """A model, prompts and their continuations."""
    model, prompts = tiny_model("llama"), rows()
    return model, prompts, [generated(model, row) for row in prompts]


def hooked(model, hook):
    """Decode with a hook on the first layer, without recording and with it."""
    prompts = rows()
    with torch.inference_mode():
        handle = model.model.layers[0].register_forward_hook(hook)
        try:
            right = decoded(model, prompts, [()] * len(prompts), 3)
            with recorded() as counts:
                made = decoded(model, prompts, [()] * len(prompts), 3)
        finally:
            handle.remove()
    return right, made, counts


@pytest.mark.parametrize("name", [*DECODED, *WINDOWS])
def test_recorded_passes_give_the_tokens_of_generate(name):
    model, prompts = model_of(name), rows()
    right = [generated(model, row) for row in prompts]
    mixed = [truth[:5] + [3] * number for number, truth in enumerate(right)]
    for truths, slots in ((right, 1), (mixed, 3), ([()] * len(prompts), 4), ([()] * len(prompts), 99)):
        with recorded() as counts:
            assert decoded(model, prompts, truths, slots) == right
        assert counts.watched
    assert counts.recorded == 1
    assert counts.replayed == LIMIT - 4


@pytest.mark.parametrize("name", [*DECODED, *WINDOWS])
def test_the_trial_of_a_model_may_be_recorded(name, monkeypatch):
    monkeypatch.setattr(graphs, "_WATCHED", 1)
    model = model_of(name)
    with recorded() as counts:
        assert decodes_alike(model, rows(), LIMIT)
    assert counts.replayed


@pytest.mark.parametrize("name", [*DECODED, *WINDOWS])
def test_a_step_copies_nothing_to_its_device_and_waits_for_nothing(name):
    assert cannot_be_recorded(model_of(name)) == ""


@pytest.mark.parametrize("name", ["dbrx", "jetmoe", "phimoe", "xmod"])
def test_a_step_that_waits_is_seen(name):
    assert cannot_be_recorded(tiny_model(name))


def test_what_is_read_by_the_hundred_columns_repeats_its_shape(llama, monkeypatch):
    model, prompts, right = llama
    with recorded() as whole:
        assert decoded(model, prompts, [()] * len(prompts), 4) == right
    monkeypatch.setattr(decoding, "_COLUMNS", 16)
    with recorded() as pieces:
        assert decoded(model, prompts, [()] * len(prompts), 4) == right
    assert pieces.recorded > whole.recorded == 1
    assert pieces.replayed < whole.replayed


def test_a_pass_that_waits_is_not_recorded():
    def waits(module, given, made):
        assert float(made.sum()) != 0.5

    right, made, counts = hooked(tiny_model("llama"), waits)
    assert made == right
    assert (counts.watched, counts.recorded) == (1, 0)


def test_a_pass_that_python_changes_is_not_replayed_for_long():
    calls = []

    def drifts(module, given, made):
        calls.append(None)
        return made * (1 + len(calls) % 5)

    model = tiny_model("llama")
    prompts = rows()
    right, made, counts = hooked(model, drifts)
    assert len(right) == len(made) == len(prompts)
    assert counts.recorded == 1
    assert counts.replayed <= 2


def test_a_recording_that_fails_leaves_passes_as_they_are(llama, monkeypatch):
    model, prompts, right = llama
    with recorded() as counts:
        graph = torch.cuda.CUDAGraph

        def fail():
            made = graph()
            made.__class__ = type("Failing", (type(made),), {"__torch_dispatch__": no})
            return made

        def no(self, func, types, args=(), kwargs=None):
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(torch.cuda, "CUDAGraph", fail)
        assert decoded(model, prompts, [()] * len(prompts), 4) == right
    assert counts.replayed == 0
    assert counts.watched == 1


@pytest.mark.parametrize(
    ("devices", "features", "may"),
    [
        (["cuda:0"], {}, True),
        (["cuda:1", "cuda:1"], {}, True),
        (["cuda:0", "cuda:1"], {}, False),
        (["cuda:0", "cpu"], {}, False),
        (["cpu"], {}, False),
        ([], {}, False),
        (["cuda:0"], {"is_quantized": True}, False),
        (["cuda:0"], {"hook": True}, False),
    ],
    ids=str,
)
def test_models_that_lie_on_one_gpu_are_recorded(devices, features, may):
    tensors = [SimpleNamespace(device=torch.device(device)) for device in devices]
    module = SimpleNamespace(**({"_hf_hook": None} if features.get("hook") else {}))
    model = SimpleNamespace(
        parameters=lambda: tensors[:1],
        buffers=lambda: tensors[1:],
        modules=lambda: [module],
        is_quantized=features.get("is_quantized", False),
    )
    assert can_record(model) == may


def test_a_model_on_the_cpu_is_not_recorded():
    assert not can_record(tiny_model("llama"))


@pytest.mark.parametrize("name", [*DECODED, *WINDOWS])
@pytest.mark.parametrize("device", ["cpu"] + ["cuda"] * torch.cuda.is_available())
def test_graphs_of_a_gpu_give_the_tokens_of_its_passes(name, device, monkeypatch):
    model, prompts, replayed, run = model_of(name).to(device), rows(), [], Graphs.run

    def seen(self, *given):
        logits = run(self, *given)
        replayed.append(len(self._graphs) * (not self._fails))
        return logits

    monkeypatch.setattr(Graphs, "run", seen)
    made = decoded(model, prompts, [()] * len(prompts), 4)
    assert bool(replayed and replayed[-1]) == (device == "cuda")
    monkeypatch.setattr(decoding, "can_record", lambda _: False)
    assert decoded(model, prompts, [()] * len(prompts), 4) == made
