"""The sweep over transformers' architectures, reduced; and that it tells right from wrong."""

import signal

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import taskarith
from benchmarks.architectures import steps, sweep
from benchmarks.architectures.case import Case, ImpossibleError, WrongError, close, same
from benchmarks.architectures.population import build, population
from benchmarks.architectures.steps import STEPS, Outcome, Result, run
from benchmarks.architectures.sweep import read_results
from benchmarks.architectures.table import report
from taskarith.errors import MismatchError

pytestmark = pytest.mark.filterwarnings("ignore")  # those of transformers and PEFT about tiny models

EDITS = ("bits", "negate", "load", "verify")
ADAPTERS = ("adapter", "head", "embedding", "combine", "rank-peft", "rank-own")
TRAINING = ("train", "lora", "resume", "resume-lora")

CHOSEN = {
    "apertus": ("rank-own",),  # parameters without axes
    "bailing_hybrid": ("rank-peft",),  # three convolutions of the files are one in memory
    "bert": ("head", "rank-peft", "loss"),  # a tied head that is not stored and is not called lm_head
    "deepseek_v3": ("load", "adapter", "rank-peft"),  # float32 in memory; dense layers called as experts' factors
    "blt": ("batch",),  # its own code for a cache fails
    "emu3": ("loss",),  # its causal class has other names than its files
    "falcon_mamba": ("rank-peft", "batch"),
    "gemma3": ("bits", "load", "adapter", "rank-peft", "lora", "resume"),  # other names in the files than in memory
    "gpt2": ADAPTERS,  # transposed weights
    "gpt_neox": (*EDITS, *ADAPTERS, *TRAINING),  # a head of another name in the files
    "llava_next": ("rank-peft", "rank-own"),  # a parameter of no module
    "qwen2_5_vl": ("adapter", "rank-peft"),  # modules that have numbers for names
    "qwen3_5": ("lora",),  # trained as the language model that it has, in the names of that
    "qwen3_moe": ("adapter", "combine", "rank-peft", "rank-own", "lora", "resume"),  # experts are one tensor in memory
    "reformer": ("lora",),  # a backward pass of its own
    "rwkv": ("loss", "batch"),
    "t5": (*EDITS, "head", "rank-peft"),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_all_is_right(name):
    if name not in population():
        pytest.skip(f"transformers {transformers.__version__} does not have {name} yet")
    result = run(name, CHOSEN[name])
    assert not result.unbuilt
    assert result.steps == dict.fromkeys((step for step in STEPS if step in CHOSEN[name]), Outcome("right"))


def test_the_population_is_all_that_is_causal():
    assert MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() <= population().keys()
    assert {"qwen2_vl", "t5", "bert/BertForMaskedLM", "clip"} <= population().keys()


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("qwen3_next", {"linear_attention", "full_attention"}), ("gemma3_text", {"sliding_attention", "full_attention"})],
)
def test_a_small_model_has_layers_of_every_kind(name, kinds):
    model = build(name)
    assert set(model.config.layer_types) == kinds
    assert sum(parameter.numel() for parameter in model.parameters()) < 1e6


def test_equal_seeds_build_equal_models():
    same(build("llama").state_dict(), build("llama").state_dict())


def fails(error):
    def step(_case):
        raise error

    return step


def passes(_case):
    pass


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (MismatchError("x does not fit", "Do y."), Outcome("refused", "x does not fit")),
        (WrongError("1 of 2 tensors differ"), Outcome("wrong", "1 of 2 tensors differ")),
        (ImpossibleError("PEFT: no"), Outcome("impossible", "PEFT: no")),
    ],
)
def test_a_failing_step_is_told_by_kind(monkeypatch, error, outcome):
    monkeypatch.setattr(steps, "STEPS", {"one": fails(error), "two": passes})
    assert run("gpt2", ("one", "two")).steps == {"one": outcome, "two": Outcome("right")}


def test_a_traceback_is_wrong_and_says_where(monkeypatch):
    monkeypatch.setattr(steps, "STEPS", {"one": fails(KeyError("gate"))})
    outcome = run("gpt2", ("one",)).steps["one"]
    assert outcome.kind == "wrong"
    assert outcome.reason.startswith("KeyError in test_architectures.py, line ")


def test_a_result_of_one_wrong_bit_is_found(monkeypatch):
    right = taskarith.apply

    def flawed(*inputs, output_dir, **options):
        result = right(*inputs, output_dir=output_dir, **options)
        path = output_dir / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-4] ^= 1  # the last digit of the last number
        path.write_bytes(data)
        return result

    monkeypatch.setattr(taskarith, "apply", flawed)
    result = run("gpt2", ("bits", "negate", "verify"))
    assert {name: outcome.kind for name, outcome in result.steps.items()} == dict.fromkeys(result.steps, "wrong")
    assert result.steps["bits"].reason.startswith("1 of ")


def test_what_cannot_be_built_is_listed_with_the_reason():
    result = run("musicgen")
    assert result.unbuilt
    text = report({"musicgen": result, "gpt2": Result("gpt2", {"bits": Outcome("right")})})
    assert f"- musicgen: {result.unbuilt}" in text
    assert "1 architectures built of 2; steps: 1 right, 0 refused, 0 wrong, 0 impossible." in text
    assert "\n| gpt2 | + |" in text
    assert "## Not run" not in text
    assert "\n## Not run\n\nllama, phi\n" in report({"musicgen": result}, ["llama", "phi"])


def test_the_table_names_all_that_fail_alike():
    wrong = {
        name: Result(name, {"head": Outcome("refused", f"{count} targets are not in base: {name}.0.weight")})
        for name, count in (("bert", 1), ("vit", 12))
    }
    assert "- head, 2 (bert, vit): 1 targets are not in base: bert.0.weight" in report(wrong)


def test_comparisons_see_names_dtypes_and_numbers():
    tensors = {"a": torch.ones(3)}
    for other in ({"b": torch.ones(3)}, {"a": torch.ones(3).double()}, {"a": torch.tensor([1, 1, 1 + 1e-7])}, {}):
        with pytest.raises(WrongError):
            same(other, tensors)
    close({"a": torch.tensor([1, 1, 1 + 1e-6])}, tensors)
    for other in ({"a": torch.tensor([1, 1, 1 + 1e-5])}, {"a": torch.tensor([1, 1, torch.nan])}):
        with pytest.raises(WrongError, match="1 of 1 tensors differ"):
            close(other, tensors)
    with pytest.raises(WrongError, match="nothing to compare"):
        same({}, {})


def test_a_process_that_ends_costs_one_architecture(monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "_PATIENCE", 0)
    told = []
    sweep.sweep(["gpt2"], ["bits"], 1, tmp_path / "results.jsonl", told.append)
    assert told == [Result("gpt2", {"bits": Outcome("wrong", f"the process ended with code {-signal.SIGKILL}")})]
    assert read_results(tmp_path / "results.jsonl") == {"gpt2": told[0]}


def test_missing_weights_are_wrong(tmp_path):
    model = build("gpt2")
    model.save_pretrained(tmp_path)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "ln_f" not in name}
    model.save_pretrained(tmp_path, state_dict=tensors)
    with pytest.raises(WrongError, match="2 missing keys"):
        Case("gpt2", tmp_path, type(model)).load(tmp_path)
