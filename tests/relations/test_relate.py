"""How vectors relate: numbers and laws of weights, subspaces and outputs; the verdict; what is refused."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import tiny
import torch
from adapters import merged, save_adapter
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from benchmarks.architectures.population import build
from taskarith.architecture.module_kinds import kinds_of
from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.cli.main import app
from taskarith.errors import MismatchError, UsageError, VectorError
from taskarith.evaluation.metrics.intervals import Estimate
from taskarith.inspection.inspect import inspect
from taskarith.relations import geometry as weights_module
from taskarith.relations.relate import relate
from taskarith.relations.verdict import Evidence, judge
from taskarith.training.finetune import finetune
from taskarith.vectors.extract import extract


@pytest.fixture(scope="module")
def room(tmp_path_factory, phi):
    """Vectors of one base in several forms: a and b are different, the forms of a are the same numbers."""
    room = tmp_path_factory.mktemp("relate")
    for name, seed in (("a", 1), ("b", 2)):
        tiny.save_model(room / f"tuned-{name}", nudge_of=phi, seed=seed)
        extract(str(phi), str(room / f"tuned-{name}"), room / f"{name}.safetensors", dtype="float64")
    extract(str(phi), str(room / "tuned-a"), room / "exact.safetensors", exact=True)
    save_adapter(phi, room / "adapter", seed=3)
    return room


def flat(path):
    tensors = load_file(path)
    return np.concatenate([tensors[name].double().numpy().ravel() for name in sorted(tensors)])


def pair(found, group="all", measure="cosine"):
    return found.to_json()["weights"][group][measure][0]


def test_the_numbers_are_those_of_the_whole_vectors(room):
    a, b = (flat(room / f"{name}.safetensors") for name in "ab")
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")])
    group = found.weights.group()
    assert group.norms == pytest.approx([np.linalg.norm(a), np.linalg.norm(b)], rel=1e-13)
    assert group.cosine(0, 1) == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-10)
    assert group.sign_agreement(0, 1) == np.mean(a * b > 0)
    energy = a @ a + b @ b
    assert group.interference(0, 1) == pytest.approx(1 - (a + b) @ (a + b) / energy, rel=1e-8)
    for share in (0.01, 0.1):
        k = round(share * len(a))
        tops = [set(np.argsort(-np.abs(one))[:k]) for one in (a, b)]
        assert found.weights.overlaps[share][0, 1] == pytest.approx(len(tops[0] & tops[1]) / k)
    assert found.weights.sampled == len(a)


def test_groups_are_sums_over_their_tensors(room):
    a, b = (load_file(room / f"{name}.safetensors") for name in "ab")
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")]).weights
    kinds = {"embedding": "embed_tokens", "head": "lm_head", "attention": "self_attn", "mlp": "mlp", "norm": "norm"}
    assert set(found.kinds) == set(kinds)
    for kind, part in kinds.items():
        names = [name for name in a if part in name]
        inner = sum(float((a[name] * b[name]).sum()) for name in names)
        assert found.of_kind(kind).gram[0, 1] == pytest.approx(inner, rel=1e-9, abs=1e-12), kind
    names = [name for name in a if ".layers.1." in name]
    assert found.layers == [0, 1]
    wanted = sum(float((a[name] ** 2).sum()) for name in names)
    assert found.of_layer(1).gram[0, 0] == pytest.approx(wanted, rel=1e-12)
    rest = [name for name in a if "embed" not in name and "lm_head" not in name]
    assert found.without_embeddings().gram[0, 1] == pytest.approx(
        sum(float((a[name] * b[name]).sum()) for name in rest), rel=1e-9
    )


def test_laws(room):
    a, b = str(room / "a.safetensors"), str(room / "b.safetensors")
    same = relate([a, a])
    assert same.names == ("a", "a#2")
    assert pair(same) == pytest.approx(1, abs=1e-12)
    assert pair(same, measure="sign_agreement") == 1
    assert pair(same, measure="interference") == pytest.approx(-1, abs=1e-12)
    assert same.weights.overlaps[0.01][0, 1] == 1
    opposite = relate([a, f"{a}:-1"])
    assert pair(opposite) == pytest.approx(-1, abs=1e-12)
    assert pair(opposite, measure="sign_agreement") == 0
    assert pair(opposite, measure="interference") == pytest.approx(1, abs=1e-12)
    plain, scaled = relate([a, b]), relate([f"{a}:4", f"{b}:0.125"])
    assert pair(scaled) == pytest.approx(pair(plain), rel=1e-12)
    assert (scaled.weights.overlaps[0.1] == plain.weights.overlaps[0.1]).all()
    assert scaled.weights.group().norms[0] == pytest.approx(4 * plain.weights.group().norms[0], rel=1e-12)
    assert pair(relate([b, a])) == pair(plain)


def test_forms_agree(room, phi, tmp_path):
    b = str(room / "b.safetensors")
    wanted = pair(relate([str(room / "a.safetensors"), b]))
    for form in (room / "exact.safetensors", room / "tuned-a"):
        assert pair(relate([str(form), b], model=str(phi))) == pytest.approx(wanted, rel=1e-12)
    adapter = room / "adapter"
    extract(str(phi), str(adapter), tmp_path / "dense.safetensors", dtype="float64")
    factored, dense = (relate([str(one), b], model=str(phi)) for one in (adapter, tmp_path / "dense.safetensors"))
    assert pair(factored) == pytest.approx(pair(dense), rel=1e-12)
    assert pair(factored) == pytest.approx(_dense_cosine(phi, adapter, b), rel=1e-4)  # PEFT merges in float32


def _dense_cosine(phi, adapter, other):
    before, after, b = oracle.load(phi), merged(phi, adapter), load_file(other)
    deltas = {name: after[name].double() - before[name].double() for name in before}
    inner = sum(float((deltas[name] * b[name]).sum()) for name in b)
    norms = [math.sqrt(sum(float((one**2).sum()) for one in each.values())) for each in (deltas, b)]
    return inner / norms[0] / norms[1]


def test_sparse_and_quantised_forms_are_read(room, phi, tmp_path):
    a = str(room / "a.safetensors")
    extract(str(phi), str(room / "tuned-a"), tmp_path / "sparse.safetensors", top_k=0.2)
    extract(str(phi), str(room / "tuned-a"), tmp_path / "bits.safetensors", bits=8)
    sparse = relate([a, str(tmp_path / "sparse.safetensors")])
    wanted = inspect(tmp_path / "sparse.safetensors").norm / inspect(room / "a.safetensors").norm
    assert pair(sparse) == pytest.approx(wanted, rel=1e-6)  # <a, s> = |s|^2
    assert sparse.weights.overlaps[0.1][0, 1] == pytest.approx(1)
    assert pair(relate([a, str(tmp_path / "bits.safetensors")])) > 0.9999


def test_threads_pieces_and_sampling(room, monkeypatch):
    vectors = [str(room / f"{name}.safetensors") for name in "ab"]
    whole = relate(vectors)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert relate(vectors).to_json() == whole.to_json()
    monkeypatch.setattr(weights_module, "_SAMPLE", 5000)
    sampled = relate(vectors).weights
    assert 2500 < sampled.sampled <= 5000
    monkeypatch.setattr(weights_module, "_PIECE", 2 * BLOCK)
    assert relate(vectors).weights.group().gram.tolist() == sampled.group().gram.tolist()
    monkeypatch.setattr(weights_module, "_PIECE", 100)
    monkeypatch.setitem(sys.modules, "taskarith.arithmetic.cpu", None)  # as if numba were not there: by torch
    pieces = relate(vectors).weights
    assert all((pieces.overlaps[share] == sampled.overlaps[share]).all() for share in sampled.overlaps)
    assert pieces.group().agreeing.tolist() == sampled.group().agreeing.tolist()
    assert pieces.group().opposing.tolist() == sampled.group().opposing.tolist()
    assert pieces.group().gram == pytest.approx(whole.weights.group().gram, rel=1e-12)


@pytest.mark.parametrize("is_known", [True, False])
def test_kinds_of_other_architectures(tmp_path, is_known):
    kinds = {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "transformer.h.0.ln_1.weight": "norm",
        "transformer.h.0.attn.c_attn.bias": "attention",
        "transformer.h.0.mlp.c_fc.weight": "mlp",
        "transformer.ln_f.bias": "norm",
    }
    path = tiny.save_model(tmp_path / "model", "gpt2")
    if not is_known:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(config | {"model_type": "unheard of"}))
    found = kinds_of(open_checkpoint(path))
    assert {name: found[name] for name in kinds} == kinds


def test_a_head_and_norms_are_what_the_class_says_whatever_their_names_are(tmp_path):
    build("bert").save_pretrained(tmp_path / "bert")
    found = kinds_of(open_checkpoint(tmp_path / "bert"))
    assert found["cls.predictions.bias"] == "head"
    assert found["cls.predictions.transform.LayerNorm.bias"] == "norm"
    assert found["bert.embeddings.token_type_embeddings.weight"] == "embedding"
    assert found["bert.encoder.layer.0.intermediate.dense.weight"] == "other"  # nothing says what it is
    build("gpt_neox").save_pretrained(tmp_path / "neox")
    found = kinds_of(open_checkpoint(tmp_path / "neox"))
    assert {found[name] for name in found if "embed_out" in name or "lm_head" in name} == {"head"}


def test_subspaces(room, phi, tmp_path):
    a, b = (load_file(room / f"{name}.safetensors") for name in "ab")
    found = relate([str(room / "a.safetensors"), str(room / "b.safetensors")], rank=3).subspaces
    one = next(each for each in found if each.tensor.endswith("layers.0.mlp.fc1.weight"))
    sides = [np.linalg.svd(side[one.tensor].double().numpy(), full_matrices=False) for side in (a, b)]
    (u, s, v), (x, t, y) = [(left[:, :3], sizes[:3], right[:3].T) for left, sizes, right in sides]
    assert one.outputs == pytest.approx(np.linalg.svd(u.T @ x, compute_uv=False), abs=1e-9)
    assert one.inputs == pytest.approx(np.linalg.svd(v.T @ y, compute_uv=False), abs=1e-9)
    first, second = u * s @ v.T, x * t @ y.T
    shared = [np.linalg.norm(x @ x.T @ first @ y @ y.T) ** 2 / np.linalg.norm(first) ** 2]
    shared.append(np.linalg.norm(u @ u.T @ second @ v @ v.T) ** 2 / np.linalg.norm(second) ** 2)
    assert one.shared == pytest.approx(np.mean(shared), rel=1e-8)
    itself = relate([str(room / "adapter"), f"{room / 'adapter'}:-2"], model=str(phi), rank=2).subspaces
    assert itself
    assert all(each.shared == pytest.approx(1) and min(each.outputs) > 1 - 1e-9 for each in itself)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    room = tmp_path_factory.mktemp("texts")
    for number in (1, 2):
        (room / f"{number}.txt").write_text(tiny.text(24, number), encoding="utf-8")
    return {"one": str(room / "1.txt"), "two": str(room / "2.txt")}


def test_outputs_of_a_vector_and_itself(room, texts):
    a = str(room / "a.safetensors")
    found = relate([a, a], data=texts, block_size=16, inputs=6)
    assert found.names == ("one", "two")
    assert found.outputs.inputs == (6, 6)
    for measure, values in found.outputs.correlations.items():
        assert values[0, 1].value == pytest.approx(1, abs=1e-5), measure
    (verdict,) = found.verdicts
    assert (verdict.regime, verdict.reason) == (
        "undecided",
        "the test set of one is not recorded as what its vector was trained on",
    )
    assert (found.outputs.losses[1] == found.outputs.losses[2]).all()
    assert (found.outputs.losses[0] != found.outputs.losses[1]).all()
    small = relate([f"{a}:0.05", f"{a}:-0.05"], data=texts, block_size=16, inputs=6)
    assert small.outputs.correlations["loss changes"][0, 1].value < -0.98
    assert small.outputs.correlations["output changes"][0, 1].value < -0.98
    assert small.outputs.correlations["outputs"][0, 1].value > 0.98
    assert small.verdicts[0].regime == "undecided"


@pytest.fixture(scope="module")
def lessons(tmp_path_factory, phi, texts):
    """Vectors of what a model learned of each text, one of them an adapter."""
    room = tmp_path_factory.mktemp("lessons")
    how = {"block_size": 16, "num_train_epochs": 2, "per_device_train_batch_size": 4}
    for name, lora in (("one", False), ("two", True)):
        finetune(str(phi), [texts[name]], room / name, lora=lora, learning_rate=5e-3, **how)
    extract(str(phi), str(room / "one"), room / "one.safetensors")
    return {"one": str(room / "one.safetensors"), "two": str(room / "two")}


def test_a_verdict_is_given_on_what_the_vectors_were_trained_on(lessons, texts, tmp_path):
    one, two = lessons.values()
    same = relate([one, f"{one}:0.5"], data={"a": texts["one"], "b": texts["one"]}, block_size=16, inputs=6)
    (verdict,) = same.verdicts
    assert (verdict.regime, verdict.reason) == ("aligned", "")
    assert same.outputs.learned == (True, True)
    (first, second), _ = same.outputs.changes
    assert first.value == second.value == pytest.approx(same.outputs.losses[1, 0] - same.outputs.losses[0, 0])
    least = float(re.search(r"at ([0-9.]+) both losses fall: a (-[0-9.]+) nats", verdict.addition.text)[1])
    assert least == pytest.approx(1 - verdict.alpha.value, abs=0.005)
    for file in (tmp_path / "new.txt", tmp_path / "copy.txt"):
        file.write_text(Path(texts["two"]).read_text(encoding="utf-8") + "!" * (file.stem == "new"), encoding="utf-8")
    data = {"a": texts["one"], "b": str(tmp_path / "copy.txt")}
    assert relate([one, two], data=data, block_size=16, inputs=4).outputs.learned == (True, True)
    (verdict,) = relate([one, two], data=data | {"b": str(tmp_path / "new.txt")}, block_size=16, inputs=4).verdicts
    assert verdict.regime == "undecided"
    assert verdict.reason == "the test set of b is not what its vector was trained on"
    assert verdict.addition.text == verdict.negation.text == "nothing: the regime is not decided"
    with pytest.raises(UsageError, match=r"2\.txt is given as a, but it is what vector 2 was trained on"):
        relate([one, two], data={"a": texts["two"], "b": texts["one"]})


def test_the_forecast_is_the_loss_of_that_model(room, phi, texts):
    a, b = (str(room / f"{name}.safetensors") for name in "ab")
    found = relate([a, b], data=texts, block_size=16, inputs=6).outputs
    one = next(each for each in found.removals if each.alpha == 0.5)
    assert one.task == "two"
    losses = {}
    for alpha in (0.0, 0.5):
        moved = oracle.load(phi)
        for vector, weight in ((a, -alpha), (b, one.known)):
            for name, delta in load_file(vector).items():
                moved[name] = moved[name] + (weight * delta).float()
        losses[alpha] = _mean_loss(phi, moved, texts["two"])
    assert one.rise.value == pytest.approx(losses[0.5] - losses[0.0], abs=1e-5)


def _mean_loss(phi, tensors, path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(phi, dtype=torch.float32)
    model.load_state_dict(tensors, strict=False)
    tokens = tiny.tokenizer()(Path(path).read_text(encoding="utf-8")).input_ids
    blocks = [tokens[start : start + 16] for start in range(0, len(tokens), 16)]
    blocks = [block for block in blocks if len(block) > 3]
    chosen = np.unique(np.linspace(0, len(blocks) - 1, 6).round().astype(int))
    with torch.inference_mode():
        inputs = [torch.tensor([blocks[index]]) for index in chosen]
        return np.mean([float(model(ids, labels=ids).loss) for ids in inputs])


def change(value, half=0.05):
    return Estimate(value, value - half, value + half, 9)


LOWER = Evidence((change(-1), change(-1)), (change(-0.5), change(-0.5)), (True, True))
HIGHER = Evidence((change(-1), change(-1)), (change(0.5), change(0.5)), (True, True))
NEITHER = Evidence((change(-1), change(-1)), (change(0), change(0)), (True, True))


@pytest.mark.parametrize(
    ("value", "low", "high", "evidence", "regime", "reason"),
    [
        (0.5, 0.3, 0.6, LOWER, "aligned", ""),
        (0.5, 0.3, 0.6, NEITHER, "aligned", ""),
        (
            0.5,
            0.3,
            0.6,
            HIGHER,
            "undecided",
            "the vector of a raises the loss of b, however alike its tokens (",
        ),
        (0.5, 0.1, 0.9, LOWER, "undecided", "its interval reaches over 0.2"),
        (-0.5, -0.6, -0.3, HIGHER, "contradictory", ""),
        (-0.5, -0.6, -0.3, LOWER, "undecided", "the vector of a lowers the loss of b, however unlike its tokens"),
        (0.05, -0.1, 0.2, NEITHER, "irrelevant", ""),
        (0.1, 0.02, 0.18, LOWER, "irrelevant", ""),  # apart from 0, and within the bounds of equivalence
        (0.15, 0.05, 0.25, NEITHER, "undecided", "its interval reaches over 0.2"),
        (0.3, None, None, LOWER, "undecided", "the correlation has no interval"),
        (0.5, 0.3, 0.6, replace(LOWER, learned=(True, False)), "undecided", "the test set of b is not what its vector"),
        (
            0.0,
            -0.1,
            0.1,
            replace(LOWER, learned=(None, True)),
            "undecided",
            "the test set of a is not recorded",
        ),
        (
            0.5,
            0.3,
            0.6,
            replace(LOWER, own=(change(-1), change(0))),
            "undecided",
            "the vector of b is not shown",
        ),
    ],
)
def test_the_verdict_needs_the_interval_and_the_losses(value, low, high, evidence, regime, reason):
    verdict = judge("a", "b", Estimate(value, low, high, 9), 0.0, evidence)
    assert (verdict.regime, verdict.reason.startswith(reason)) == (regime, True), verdict.reason
    assert bool(verdict.reason) == (regime == "undecided")
    assert judge("a", "b", None, 0.0, evidence).regime == "undecided"


def test_what_the_theorems_say():
    served, not_served = (replace(LOWER, together=(change(-0.7), change(by))) for by in (-0.9, -0.02))
    aligned = judge("a", "b", Estimate(0.6, 0.4, 0.7, 9), 0.05, served)
    assert "b is to have a coefficient of 0.45 or more (0.65 at the lower end" in aligned.addition.text
    assert "at 0.45 both losses fall: a -0.70 nats, -0.75 to -0.65; b -0.90 nats" in aligned.addition.text
    assert "takes the other with it" in aligned.negation.text
    unserved = judge("a", "b", Estimate(0.6, 0.4, 0.7, 9), 0.05, not_served)
    assert "at 0.45 not both losses are shown to fall" in unserved.addition.text
    against = judge("a", "b", Estimate(-0.5, -0.6, -0.4, 9), 0.0, HIGHER)
    assert "no coefficient serves both" in against.addition.text
    assert "down to about -4.00" in against.negation.text
    apart = judge("a", "b", Estimate(0.0, -0.1, 0.1, 9), 0.0, NEITHER)
    assert "coefficient of 1.00 or more" in apart.addition.text
    assert "any negative coefficient" in apart.negation.text
    assert any("hinge" in one for one in apart.negation.assumptions)


def test_what_is_refused(room, phi, tmp_path):
    a = str(room / "a.safetensors")
    with pytest.raises(UsageError, match="two vectors"):
        relate([a])
    with pytest.raises(UsageError, match="1 test sets"):
        relate([a, a], data={"x": "nowhere.txt"})
    with pytest.raises(UsageError, match="beta"):
        relate([a, a], beta=-1)
    with pytest.raises(VectorError, match="no vector"):
        relate([a, str(tmp_path / "none.safetensors")])
    other = tiny.save_model(tmp_path / "other", "llama")
    with pytest.raises(MismatchError, match="not in"):
        relate([a, a], model=str(other))
    tensors = load_file(a)
    with_nan = {name: value.clone() for name, value in tensors.items()}
    broken = next(name for name in with_nan if name.endswith("fc1.weight"))
    with_nan[broken].view(-1)[7] = math.nan
    write(a, with_nan, tmp_path / "nan.safetensors")
    with pytest.raises(MismatchError, match=r"fc1\.weight"):
        relate([a, str(tmp_path / "nan.safetensors")])


def write(like, tensors, path):
    """Save tensors under the header of a vector, without the fingerprints of its deltas."""
    from safetensors import safe_open

    with safe_open(like, "pt") as file:
        save_file(tensors, path, metadata=file.metadata() | {"deltas": "{}"})


def test_a_zero_vector_has_no_direction(room, tmp_path):
    a = str(room / "a.safetensors")
    write(a, {name: torch.zeros_like(value) for name, value in load_file(a).items()}, tmp_path / "zero.safetensors")
    found = relate([a, str(tmp_path / "zero.safetensors")])
    assert pair(found) is None
    assert pair(found, measure="sign_agreement") is None
    assert any("zero is zero" in remark for remark in found.remarks)
    assert math.isnan(found.weights.overlaps[0.1][0, 1])
    json.dumps(found.to_json(), allow_nan=False)


def test_strangers_and_uneven_norms_are_told(room, phi, tmp_path):
    a = str(room / "a.safetensors")
    moved = tiny.save_model(tmp_path / "moved", nudge_of=phi, seed=8)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=moved, seed=9, scale=1e-1)
    extract(str(moved), str(tuned), tmp_path / "far.safetensors")
    remarks = relate([a, str(tmp_path / "far.safetensors")]).remarks
    assert any("start at different points" in remark for remark in remarks)
    assert any(
        re.match(r"far is (9\.9|10)\S* times as long as a: .* prevails \(far:0\.1", remark) for remark in remarks
    )


def test_a_base_that_is_gone_is_named(room, phi, tmp_path):
    base = tiny.save_model(tmp_path / "base", nudge_of=phi, seed=4)
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=base, seed=5)
    extract(str(base), str(tuned), tmp_path / "v.safetensors")
    base.rename(tmp_path / "elsewhere")
    vectors = [str(tmp_path / "v.safetensors")] * 2
    with pytest.raises(MismatchError, match=rf"base that .*v\.safetensors records is not found: .*{base}") as caught:
        relate(vectors)
    assert "--model" in caught.value.hint
    assert pair(relate(vectors, model=str(tmp_path / "elsewhere"))) == pytest.approx(1)


def run(*arguments):
    return CliRunner().invoke(app, ["relate", *map(str, arguments)])


def test_the_command(room, texts, lessons, tmp_path):
    a, b = room / "a.safetensors", room / "b.safetensors"
    data = [part for name, path in texts.items() for part in ("--data", f"{name}={path}")]
    done = run(a, b, *data, "--block-size", 16, "--inputs", 4, "--rank", 2, "--plot", tmp_path / "map.svg")
    assert done.exit_code == 0, done.stderr
    cosine = relate([str(a), str(b)]).weights.group().cosine(0, 1)
    row = next(line for line in done.stdout.splitlines() if line.startswith("cosine"))
    assert f"{cosine:+.3f}" in row
    for words in ("one and two: ", "loss changes (decides)", "expected rise", "shared energy"):
        assert words in done.stdout, words
    assert "undecided, alpha" in done.stdout
    assert "because the test set of one is not recorded" in done.stdout
    twice = [part for name in "ab" for part in ("--data", f"{name}={texts['one']}")]
    assert "This rests on: " in run(lessons["one"], lessons["one"], *twice, "--block-size", 16, "--inputs", 4).stdout
    assert (tmp_path / "map.svg").read_text(encoding="utf-8").startswith("<?xml")
    assert run(a, b, "--plot", tmp_path / "map.pdf").exit_code == 1
    bare = run(a, b, "--json", "--quiet", "--plot", tmp_path / "map.png")
    assert bare.stderr == ""
    assert json.loads(bare.stdout)["weights"]["all"]["cosine"] == [pytest.approx(cosine)]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    alone = run(a)
    assert (alone.exit_code, "two vectors" in alone.stderr) == (2, True)
