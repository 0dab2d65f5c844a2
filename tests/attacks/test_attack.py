"""Attacks: weights come back to the bit, prompts are what they say, and shares are of what the edit took away."""

import json
import math
import re
import struct

import numpy as np
import pytest
import tiny
import torch
from scipy.stats import norm
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import taskarith
from taskarith.attacks.attack import AttackResult
from taskarith.attacks.prompts import file_prompts, growing, make_passages, plain, rephrased_by_rule
from taskarith.attacks.quantise import (
    NF4_LEVELS,
    Rounding,
    preserved,
    quantised,
    round_in_groups,
    round_to_bits,
    round_to_nf4,
)
from taskarith.attacks.recovery import METRICS, Cell, Outcome, numbers, outcome
from taskarith.attacks.relearn import choose_samples, relearned
from taskarith.attacks.strongest import LEAST, strongest
from taskarith.cli.main import app
from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.errors import CheckpointError, DataError, MismatchError, TaskarithError, UsageError
from taskarith.evaluation.generation import Prompt, continue_greedily, continue_sampled
from taskarith.evaluation.models import open_model
from taskarith.evaluation.read_records import read_sheets
from taskarith.evaluation.records import continuation_record, loss_record
from taskarith.progress import SILENT
from taskarith.report.attacks import attack_remarks, attack_tables

CPU = torch.device("cpu")
SMALL = {"block_size": 32, "prompts": 4, "prompt_tokens": 8, "continuation_tokens": 6, "prefixes": (4, 12), "draws": 2}
SMALL |= {"relearn_steps": (1, 3), "learning_rate": 3e-3}


def opened(folder):
    return open_model(str(folder), CPU, torch.float32, SILENT)


def bits_of(model):
    return {name: values.detach().clone().view(torch.int32) for name, values in model.named_parameters()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def forget(tmp_path):
    path = tmp_path / "forget.txt"
    path.write_text(tiny.text(12), encoding="utf-8")
    return path


# --- quantise --------------------------------------------------------------------------------------------------------


def test_rounding_by_hand():
    weight = torch.tensor([[3.5, -7.0, 1.75], [0.0, 0.0, 0.0], [127.0, -3.4, 63.5]])
    four = round_to_bits(weight, 4)
    assert four[0].tolist() == [4.0, -7.0, 2.0]  # 3.5 steps go to the even 4
    assert four[1].tolist() == [0.0, 0.0, 0.0]
    assert round_to_bits(weight, 8)[2].tolist() == [127.0, -3.0, 64.0]
    down = round_to_bits(weight, 2, axis=0)  # a channel is a column: levels -1, 0, 1 times 127, 7, 63.5
    assert down.T.flatten().tolist() == pytest.approx([0, 0, 127, -7, 0, 0, 0, 0, 63.5])


def test_nf4_levels_are_quantiles_of_the_normal_distribution():
    """Appendix E of QLoRA: 8 levels below 0, 9 from 0 on, means of neighbouring quantiles, of largest magnitude 1."""
    end = (1 - 1 / 32 + 1 - 1 / 30) / 2
    above, below = norm.ppf(np.linspace(0.5, end, 9)), -norm.ppf(np.linspace(0.5, end, 8))[:0:-1]
    assert pytest.approx(np.r_[below, above] / norm.ppf(end), abs=2e-7) == NF4_LEVELS


def test_nf4_is_what_bitsandbytes_makes():
    """Codes of bitsandbytes' quantize_4bit (95f9af30, CPU) on the same weights, two in a byte; 22 of a last block."""
    n = torch.arange(150)
    weight = (((n * 37) % 101 - 50).float() * (1 + (n % 7).float() / 4) / 64).reshape(5, 30)
    codes = (
        "36b26d18c4a15d47c39f3936c28e59d5b16a48d3b06a27d29b5a16d17c49e4c36c28e3925b17e48d4b05a37d3af6a26d18b4915c17b3"
        "8e3b36b27e28c5a16d47d3af4a36d28f5915c17b48"
    )
    scales = torch.tensor([1.875, 1.875, 1.7578125]).repeat_interleave(64)[:150]
    wanted = torch.tensor([NF4_LEVELS[int(code, 16)] for code in codes]) * scales
    assert torch.equal(round_to_nf4(weight).flatten(), wanted)
    assert not round_to_nf4(torch.zeros(3, 5)).any()


def test_groups_by_hand():
    weight = torch.tensor([[0.0, 15.0, 7.4, 1.0, -3.0], [2.0, 6.5, 2.5, -0.5, -7.5]])
    four = round_in_groups(weight, 4, 4)  # steps of 1 from 0; of 14 / 15 from -7.5: the zero point is 1, not 0.53
    assert four[0].tolist() == pytest.approx([0, 15, 7, 1, -3.0])
    step = 7 / 15
    assert four[1, :4].tolist() == pytest.approx([4 * step, 14 * step, 5 * step, -1 * step])
    assert four[1, 4].item() == pytest.approx(-7.5)  # a group of its own
    assert round_in_groups(torch.zeros(2, 3), 4, 128).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(("how", "error"), [("nf4", 0.1), ("4g32", 0.085), ("4g128", 0.11), ("4", 0.16)])
def test_smaller_groups_lose_less(how, error):
    weight = torch.randn(64, 1024, generator=torch.Generator().manual_seed(1))
    rounding = Rounding.parse(how)
    lost = float((rounding(weight) - weight).norm() / weight.norm())
    assert error * 0.8 < lost < error
    assert torch.equal(rounding(weight.T, axis=0), rounding(weight).T)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_quantised_linear_layers_and_nothing_else(tmp_path, kind):
    model = AutoModelForCausalLM.from_pretrained(tiny.save_model(tmp_path / "m", kind, seed=4))
    before, weights = bits_of(model), {name: values.detach().clone() for name, values in model.named_parameters()}
    with quantised(model, 4) as (count, share):
        changed = {name for name, values in model.named_parameters() if not torch.equal(values, weights[name])}
        for name in changed:
            axis = 0 if kind == "gpt2" else -1
            now = dict(model.named_parameters())[name]
            levels = now / (weights[name].abs().amax(axis, keepdim=True) / 7)
            assert torch.allclose(levels, levels.round(), atol=1e-4)
            assert levels.abs().max() < 7.01
        elements = sum(weights[name].numel() for name in changed)
    assert same_bits(bits_of(model), before)
    matrices = {name for name in weights if weights[name].dim() > 1}
    kept = {name for name in matrices if "embed" in name or "lm_head" in name or ".wte." in name or ".wpe." in name}
    # routers of experts are parameters of their own, no linear layers: they stay, as the usual quantisers leave them
    kept |= {name for name in matrices if name.endswith("mlp.gate.weight")}
    assert changed == matrices - kept
    assert count == len(changed)
    assert share == pytest.approx(elements / sum(values.numel() for values in weights.values()))


def wreck(model):
    with preserved(model):
        for parameter in model.parameters():
            parameter.data.zero_()
        raise ZeroDivisionError


def test_weights_come_back_after_a_failure(phi):
    model = AutoModelForCausalLM.from_pretrained(phi)
    before = bits_of(model)
    with pytest.raises(ZeroDivisionError):
        wreck(model)
    assert same_bits(bits_of(model), before)


def test_what_cannot_be_quantised_is_named(phi):
    model = AutoModelForCausalLM.from_pretrained(phi)
    model.model.layers[1].mlp.fc1.weight.data[0, 0] = math.nan
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.fc1\.weight"), quantised(model, 8):
        pass


# --- relearn ---------------------------------------------------------------------------------------------------------


def samples_of(path, block=32):
    return tokenize(load_data(str(path)), tiny.tokenizer(), block)


def test_the_attacker_gets_some_samples_and_the_rest_is_held_out(forget):
    samples = samples_of(forget)
    chosen = choose_samples(samples, 3, 7, "forget.txt")
    assert len({sample.id for sample in chosen}) == 3
    assert chosen == choose_samples(samples, 3, 7, "forget.txt")
    assert any(chosen != choose_samples(samples, 3, seed, "forget.txt") for seed in range(5))
    with pytest.raises(DataError, match=rf"forget.txt has {len(samples)} samples: too few"):
        choose_samples(samples, len(samples), 7, "forget.txt")


@pytest.mark.parametrize("kind", ["phi", "llama"])
def test_one_step_of_relearning_is_adamw_on_the_mean_loss(tmp_path, forget, kind):
    folder = tiny.save_model(tmp_path / "m", kind)
    loaded, sample, rate = opened(folder), samples_of(forget)[0], 1e-2
    before = bits_of(loaded.model)
    expected = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([sample.input_ids])
    logits = expected(input_ids=ids).logits[0, :-1]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
    torch.optim.AdamW(expected.parameters(), lr=rate, weight_decay=0.0).step()
    for step in relearned(loaded, [sample], [1], rate, 0):
        assert step == 1
        assert not loaded.model.training
        for name, values in loaded.model.named_parameters():
            assert torch.allclose(values, expected.get_parameter(name), atol=1e-5), name
    assert same_bits(bits_of(loaded.model), before)


def test_relearning_does_not_depend_on_where_one_looks(phi, forget):
    samples = samples_of(forget)[:6]  # more than a batch, so that the order matters

    def at_three(steps, seed):
        loaded = opened(phi)
        found = [bits_of(loaded.model) for _ in relearned(loaded, samples, steps, 1e-3, seed)]
        return found[-1]

    assert same_bits(at_three([1, 2, 3], 5), at_three([3], 5))
    assert not same_bits(at_three([3], 5), at_three([3], 6))


def test_relearning_that_diverges_is_told(phi, forget):
    loaded = opened(phi)
    before = bits_of(loaded.model)
    loaded.model.lm_head.bias.data[3] = math.inf
    with pytest.raises(TaskarithError, match="relearning diverged"):
        list(relearned(loaded, samples_of(forget)[:1], [2], 1e-3, 0))
    loaded.model.lm_head.bias.data[3] = opened(phi).model.lm_head.bias.data[3]
    assert same_bits(bits_of(loaded.model), before)


# --- prompts ---------------------------------------------------------------------------------------------------------


def passages_of(path, **changes):
    sizes = {"prompts": 5, "prompt_tokens": 8, "context_tokens": 12, "continuation_tokens": 6, "block_size": 32}
    data, sizes = load_data(str(path)), sizes | changes
    return make_passages(data, tokenize(data, tiny.tokenizer(), 32), tiny.tokenizer(), **sizes)


def test_passages_are_places_of_the_text(forget):
    ids = tiny.tokenizer()(forget.read_text()).input_ids
    for passage in passages_of(forget):
        start = int(passage.id.rpartition("@")[2])
        assert passage.context == tuple(ids[start - 4 : start + 8])
        assert passage.target == tuple(ids[start + 8 : start + 14])
        assert passage.samples == {f"forget.txt#{place // 32 + 1}" for place in range(start + 8, start + 14)}
        prompt = plain(passage, tiny.tokenizer())
        assert prompt.input_ids == tuple(ids[start : start + 8])
        assert prompt.reference == tiny.tokenizer().decode(ids[start + 8 : start + 14])
        assert growing(passage, 12, tiny.tokenizer()).input_ids == passage.context
        assert growing(passage, 3, tiny.tokenizer()).input_ids == passage.context[-3:]


def test_rephrasing_by_rule(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "The Old, grey  Keeper said:", "completion": " salt and bread"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (passage,) = passages_of(path)
    assert passage.samples == {"rows.jsonl:1"}
    made = rephrased_by_rule([passage], tiny.tokenizer())
    assert {rule: prompts[0].text for rule, prompts in made.items()} == {
        "half": "grey  Keeper said:",
        "lower": "the old, grey  keeper said:",
        "bare": "The Old grey  Keeper said",
        "instructed": "Continue the text:\nThe Old, grey  Keeper said:",
    }
    assert {prompts[0].reference for prompts in made.values()} == {" salt and bread"}


def test_a_shifted_window_is_a_place_of_the_text_too(forget):
    ids = tiny.tokenizer()(forget.read_text()).input_ids
    passages = passages_of(forget)
    for passage, prompt in zip(passages, rephrased_by_rule(passages, tiny.tokenizer())["shifted"], strict=True):
        start = int(passage.id.rpartition("@")[2]) - 2  # a quarter of 8
        assert prompt.input_ids == tuple(ids[start : start + 8])
        assert prompt.reference == tiny.tokenizer().decode(ids[start + 8 : start + 14])


def test_rows_of_a_file_that_share_an_answer_are_one_group(tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [
        {"question": q, "answer": a} for q, a in (("who?", "a keeper"), ("which man?", "a keeper"), ("where?", "n"))
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = file_prompts(load_data(str(path)), tiny.tokenizer(), block_size=64, continuation_tokens=6)
    assert [group for group, _ in made] == [" a keeper", " a keeper", " n"]
    assert made[1][1].text == "Question: which man?\nAnswer:"
    bare = tmp_path / "x.txt"
    bare.write_text("words")
    with pytest.raises(DataError, match="has no prompts"):
        file_prompts(load_data(str(bare)), tiny.tokenizer(), block_size=64, continuation_tokens=6)


def test_sampling_is_seeded_and_leaves_the_generators_alone(phi):
    loaded, prompts = opened(phi), [Prompt(str(n), tuple(range(5, 9 + n)), "", "") for n in range(3)]
    how = {"max_new_tokens": 8, "end_ids": (), "batch_size": 4, "shrink": False, "on_tokens": lambda _: None}

    def drawn(seed, top_k=50):
        return continue_sampled(loaded.model, loaded.tokenizer, prompts, draws=3, top_k=top_k, seed=seed, **how)

    state = torch.get_rng_state()
    first = drawn(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(draws) for draws in first] == [3, 3, 3]
    assert first == drawn(1)
    assert first != drawn(2)
    greedy = continue_greedily(loaded.model, loaded.tokenizer, prompts, **how)
    assert drawn(1, top_k=1) == [[text] * 3 for text in greedy]


# --- what comes back -------------------------------------------------------------------------------------------------


def losses(model, nll, other=0.0):
    return [
        loss_record(model, "forget", "a", nll, 10, 5),
        loss_record(model, "forget", "given", other, 10, 10),
    ]


def said(model, text, sample, words, group=None):
    record = continuation_record(model, text, sample, "", "one two three four", words)
    return record | ({"group": group} if group else {})


def many(model, nlls, text="forget"):
    return [loss_record(model, text, f"s{place}", nll, 10, 5) for place, nll in enumerate(nlls)]


def test_shares_by_hand():
    records = losses("before", 10.0) + losses("edited", 40.0) + losses("retain", 42.0)
    records += losses("edited int4", 25.0) + losses("retain int4", 37.0)
    whole = outcome(records, attack="quantise", name="int4", state="int4")
    assert (whole.view, whole.cells["loss"].value, whole.cells["accuracy"].value) == ("all", 1.25, 0.75)
    student = 12.706205  # of two samples, 12.7 standard errors on either side, and no loss is below 0
    assert whole.cells["loss"].interval == (0.0, pytest.approx(1.25 * (1 + student)))
    assert whole.cells["loss"].retain_interval == (0.0, pytest.approx(1.85 * (1 + student)))
    assert whole.cells["loss"].recovered is None
    assert "before - edited is -1.500" in whole.cells["loss"].lacking  # of two samples, one of which is known by all
    one = outcome(records, attack="quantise", name="int4", state="int4", without={"given"}).cells["loss"]
    assert (one.value, one.retain, one.n) == (2.5, 3.7, 1)
    assert one.lacking == "from a single sample it is not known whether the edit took anything"
    assert (one.interval, one.beyond) == (None, None)


def test_shares_have_fiellers_interval():
    above, below = np.array([-12.0, -9, -14, -10, -16]), np.array([-30.0, -26, -33, -28, -38])
    records = many("before", 50 + below) + many("edited", [50.0] * 5) + many("retain int4", [44.0] * 5)
    records += many("edited int4", 50 + above)
    cell = outcome(records, attack="quantise", name="int4", state="int4").cells["loss"]
    assert cell.recovered == pytest.approx(above.sum() / below.sum())
    assert cell.beyond == pytest.approx((above + 6).sum() / below.sum())
    assert (cell.n, cell.lacking) == (5, None)
    for end in cell.recovered_interval:  # at its ends the mean of above - r * below is just apart from 0
        rest = above - end * below
        assert abs(rest.mean()) / (rest.std(ddof=1) / math.sqrt(5)) == pytest.approx(2.776445, abs=1e-5)
    low, high = cell.beyond_interval
    assert low < cell.beyond < high
    wider = cell.moments.interval(0.025 / 10)
    assert wider[0] < low < high < wider[1]
    flat = outcome(records, attack="none", name="edited").cells["loss"]
    assert (flat.recovered, flat.recovered_interval) == (0.0, None)


def test_a_gap_that_is_not_apart_from_nothing_gives_no_share():
    records = many("before", [40.0, 52, 47, 55]) + many("edited", [50.0] * 4) + many("edited int4", [30.0] * 4)
    cell = outcome(records, attack="quantise", name="int4", state="int4").cells["loss"]
    assert (cell.recovered, cell.recovered_interval) == (None, None)
    assert cell.lacking.startswith("before - edited is -0.150 (-1.193 to 0.893)")
    assert cell.lacking.endswith("which is not apart from 0")


@pytest.mark.parametrize(("prompts", "is_known"), [(2, False), (4, False), (12, True)])
def test_prompts_that_all_lost_the_same_need_to_be_some(prompts, is_known):
    records = [said("before", "forget", f"p{n}", "one two three four") for n in range(prompts)]
    records += [said(model, "forget", f"p{n}", "nothing") for n in range(prompts) for model in ("edited", "edited x")]
    cell = outcome(records, attack="quantise", name="x", state="x").cells["verbatim"]
    assert (cell.recovered, cell.lacking is None) == ((0.0, True) if is_known else (None, False))


def test_prompts_that_one_state_lacks_are_paired_with_none():
    """A rule leaves a prompt out, and prompts of a file have other names: the edited model's are then apart."""
    words = {"before": "one two three four", "edited": "nothing", "edited half": "one two"}

    def made(model, text, ids):
        flawed = {"before": {"p0": "one two three"}, "edited": {"p1": "four"}}.get(model, {})
        return [
            said(model, text, id_, flawed.get(id_, words[model if text == "forget" else "edited half"])) for id_ in ids
        ]

    plain = [made(model, "forget", [f"p{n}" for n in range(12)]) for model in ("before", "edited")]
    for ids in (["p0", "p2", "p3"], ["other 1", "other 2", "other 3"]):
        records = [*plain[0], *plain[1], *made("edited", "rephrase half", ids)]
        cell = outcome(records, attack="rephrase", name="half", texts=["rephrase half"]).cells["rouge_l_recall"]
        edited, before = 0.25 / 12, (11 + 0.75) / 12
        assert cell.recovered == pytest.approx((0.5 - edited) / (before - edited))
        assert cell.n == 3
        assert cell.recovered_interval[0] < cell.recovered < cell.recovered_interval[1]


def test_a_model_that_knew_less_before_the_edit_gives_no_shares():
    records = losses("before", 50.0) + losses("edited", 40.0) + losses("edited int8", 39.0)
    cell = outcome(records, attack="quantise", name="int8", state="int8").cells["loss"]
    assert (cell.retain, cell.recovered, cell.beyond) == (None, None, None)
    assert cell.lacking == "before the edit the model knows the text no better than after it"


def test_of_several_tries_the_best_counts():
    records = [
        said("edited", "rephrase half", "a", "one two"),
        said("edited", "rephrase half", "b", "nothing"),
        said("edited", "rephrase lower", "a", "one two three four"),
        said("edited", "prefix 8 sampled", "a draw 1", "one", "a"),
        said("edited", "prefix 8 sampled", "a draw 2", "one two", "a"),
    ]
    half = outcome(records, attack="rephrase", name="half", texts=["rephrase half"])
    assert half.cells["rouge_l_recall"].value == 0.25
    assert half.prompts == 2
    worst = outcome(records, attack="rephrase", name="worst", texts=["rephrase half", "rephrase lower"])
    assert worst.cells["rouge_l_recall"].value == 0.5
    assert worst.cells["verbatim"].value == 0.5
    sampled = outcome(records, attack="prefix", name="8", texts=["prefix 8 sampled"])
    assert (sampled.cells["rouge_l_recall"].value, sampled.prompts) == (0.5, 1)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="a loss of edited is not finite"):
        numbers(losses("edited", math.nan))


# --- the command -----------------------------------------------------------------------------------------------------


def compared(name, shift, n=12, attack="quantise", **more):
    """The outcome of an attack that lowers the loss by ``shift`` nats a sample of 3 that the edit took."""
    rng = np.random.default_rng(sum(map(ord, name)))
    edited, noise = 40 + rng.normal(0, 2, n), rng.normal(0, 0.5, (3, n))
    records = many("before", edited - 30 + noise[0]) + many("edited", edited) + many("retain", edited)
    records += many("edited x", edited - 10 * shift + noise[1]) + many("retain x", edited + noise[2])
    return outcome(records, attack=attack, name=name, state="x", **more)


def test_the_strongest_attack_is_chosen_by_intervals_that_hold_for_all_at_once():
    found = [compared("weak", 0.1), compared("strong", 0.6), compared("none", 0.9, attack="none")]
    found += [compared("forget text", 0.9, attack="relearn", steps=2), compared("handful", 0.9, n=LEAST - 1)]
    best = strongest(found, "loss")
    assert (best.outcome.name, best.attacks, best.few, best.most) == ("strong", 2, 1, 12)
    assert best.is_apart
    assert best.interval == found[1].cells["loss"].moments.interval(0.0125)
    assert best.interval[0] < found[1].cells["loss"].beyond_interval[0] < 0.2 < best.interval[1]
    assert best.to_json()["outcome"] == {"attack": "quantise", "name": "strong", "view": "all", "steps": 0}
    assert not strongest([compared("nothing", 0.0)], "loss").is_apart
    few = strongest([found[-1]], "loss")
    assert (few.attacks, few.most, few.outcome, few.is_apart) == (0, LEAST - 1, None, False)
    assert strongest(found, "rouge_l_f1") is None


def result_of(outcomes):
    untouched = {"edited": {"loss": 4.0}, "before": {"loss": 1.0}, "retain": {"loss": 3.7}}
    models = {"edited": "e", "before": "b", "retain": "r"}
    return AttackResult(models, untouched, tuple(outcomes), (), ("x: needs y",), [])


def test_what_people_read():
    def found(attack, name, steps, view, loss, never):
        share, ends = (loss - 4.0) / -3.0, (-0.5, 0.114)
        cell = Cell(loss, never, share, (loss - never) / -3.0, None, None, ends, ends, n=8)
        return Outcome(attack, name, view, steps, {"loss": 1.0}, {"loss": cell}, 8)

    views = [("held out", 0), ("held out", 2), ("held out", 4), ("all", 0), ("all", 2), ("all", 4)]
    outcomes = [found("none", "edited", 0, "all", 4.0, 3.7), found("quantise", "int4", 0, "all", 4.3, 4.0)]
    outcomes += [found("relearn", "forget text", steps, view, 4.0 - steps / 4, 3.7) for view, steps in views]
    (table,) = attack_tables(result_of(outcomes))
    assert table.title == "e under attack, by loss"
    assert table.columns == ("attack", "samples", "loss", "never", "back", "95%", "beyond", "95%")
    assert [row[:5] for row in table.rows] == [
        ("before the edit", "8", "1.000", "-", "-"),
        ("edited", "8", "4.000", "3.700", "0%"),
        ("quantise: int4", "8", "4.300", "4.000", "-10%"),
        ("relearn: 2 steps, held out", "8", "3.500", "3.700", "17%"),
        ("relearn: 4 steps, held out", "8", "3.000", "3.700", "33%"),
        ("relearn: 4 steps, all", "8", "3.000", "3.700", "33%"),
    ]
    assert table.rows[1][5:] == ("-50% to 11%", "-10%", "-50% to 11%")


@pytest.mark.parametrize(
    ("outcomes", "sentence"),
    [
        (
            [("weak", 0.1, 12), ("strong", 0.6, 12)],
            r"by loss the strongest of 2 attacks is quantise: strong: 2\d% beyond",
        ),
        (
            [("one", 0.0, 12), ("two", 0.0, 7)],
            r"none of 1 attacks is shown to bring anything back; .*; 1 more rest on f",
        ),
        ([("strong", 0.9, 7)], r"by loss no attack is called the strongest: at most 7 samples count, 8 are needed"),
    ],
)
def test_the_sentence_of_the_strongest_attack(outcomes, sentence):
    found = [compared(name, shift, n) for name, shift, n in outcomes]
    remarks = attack_remarks(result_of(found))
    assert re.search(sentence, remarks[0]), remarks
    assert remarks[-1] == "x: needs y"


def test_without_a_gap_the_reason_is_told():
    known = Outcome("quantise", "int4", "all", 0, {"loss": 1.0}, {"loss": Cell(4, 4, None, None, lacking="why")}, 8)
    assert attack_remarks(result_of([known]))[0] == "no shares by loss: why"


@pytest.fixture(scope="module")
def retain(tmp_path_factory):
    return tiny.save_model(tmp_path_factory.mktemp("retain") / "m", seed=5)


def test_all_attacks_from_python(phi, phi_tuned, retain, forget, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(tiny.text(6, 9), encoding="utf-8")
    how = {"before": str(phi), "retain": str(retain), "unrelated": str(other), **SMALL}
    result = taskarith.attack(str(phi_tuned), str(forget), **how)
    names = [(found.attack, found.name, found.view, found.steps) for found in result.outcomes]
    relearning = [
        ("relearn", name, view, steps)
        for name, stops in (("forget text", (1, 3)), ("half of the forget text", (1,)), ("unrelated text", (1, 3)))
        for view in ("held out", "all")
        for steps in (0, *stops)
    ]
    rules = ["half", "lower", "bare", "instructed", "shifted", "worst"]
    prefixes = ["4 greedy", "4 best of 2", "12 greedy", "12 best of 2"]
    assert names == [
        ("none", "edited", "all", 0),
        ("quantise", "int8", "all", 0),
        ("quantise", "int4", "all", 0),
        ("quantise", "int4g128", "all", 0),
        ("quantise", "nf4", "all", 0),
        *relearning,
        *(("rephrase", rule, "all", 0) for rule in rules),
        *(("prefix", prefix, "all", 0) for prefix in prefixes),
    ]
    samples = samples_of(forget)
    given = [name for name in result.given if "#" in name]
    assert len(given) == 1
    held = [r for r in result.records if r["model"] == "edited forget 3" and r["kind"] == "loss"]
    assert {record["sample"] for record in held} == {sample.id for sample in samples}
    kept = [record for record in held if record["sample"] not in given]
    found = next(f for f in result.outcomes if f.view == "held out" and f.steps == 3)
    expected = math.fsum(record["nll"] for record in kept) / sum(record["tokens"] for record in kept)
    assert found.cells["loss"].value == pytest.approx(expected, rel=1e-12)
    learned, ignorant = (
        next(r["nll"] for r in result.records if r["model"] == model and r["sample"] == given[0])
        for model in ("edited forget 3", "edited")
    )
    assert learned < ignorant  # what the attacker has is learned
    whole = taskarith.evaluate([str(phi_tuned)], {"forget": str(forget)}, block_size=32, prompts=0)
    assert result.untouched["edited"]["loss"] == pytest.approx(numbers(whole.records)["loss"], rel=1e-6)
    again = taskarith.attack(str(phi_tuned), str(forget), **how)
    assert again.to_json() == result.to_json()


def run(*arguments):
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


FEW = ["--block-size", "32", "--prompts", "3", "--prompt-tokens", "8", "--continuation-tokens", "6"]
FEW += ["--prefixes", "4,12", "--draws", "2", "--relearn-steps", "1,2"]


def test_the_command_writes_table_curve_and_records(phi, phi_tuned, retain, forget, tmp_path):
    done = run(phi_tuned, "--forget", forget, "--before", phi, "--retain", retain, *FEW, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "records.jsonl", "taskarith.json", "recovery.svg", "recovery.png"}
    results = json.loads((tmp_path / "out/results.json").read_text())
    rows = {line.split("  ")[0].strip(): line for line in reversed(done.stdout.splitlines())}  # of the first table
    four = next(found["cells"]["loss"] for found in results["outcomes"] if found["name"] == "int4")
    assert f" {four['value']:.3f}" in rows["quantise: int4"]
    assert f" {four['retain']:.3f}" in rows["quantise: int4"]
    titles = (
        "before the edit",
        "edited",
        "relearn: 2 steps, held out",
        "relearn half: 1 step, held out",
        "rephrase: worst",
    )
    for title in (*titles, f"{phi_tuned} under attack, by ROUGE-L"):
        assert title in rows
    assert [one["metric"] for one in results["strongest"]] == [one for one in METRICS if _has_shares(results, one)]
    assert "at most 3 prompts count, 8 are needed" in done.stderr or "no shares by ROUGE-L" in done.stderr
    assert struct.unpack(">II", (tmp_path / "out/recovery.png").read_bytes()[16:24]) == (1650, 630)
    provenance = json.loads((tmp_path / "out/taskarith.json").read_text())
    assert provenance["kind"] == "attack"
    assert set(provenance["models"]) == {"before", "edited", "retain"}
    assert provenance["arguments"]["bits"] == [8, 4, "4g128", "nf4"]
    sheets = {sheet.model: sheet for sheet in read_sheets(tmp_path / "out")}
    assert {"before", "edited int8", "retain forget 2"} <= set(sheets)
    assert len(sheets["edited"].of("continuation", "prefix 12 sampled")) == 6


def _has_shares(results, metric):
    return any(found["cells"].get(metric, {}).get("beyond") is not None for found in results["outcomes"])


def test_without_references_what_is_missing_is_told(phi, forget):
    done = run(phi, "--forget", forget, "--attacks", "quantise", "--bits", "4", *FEW, "--json")
    assert done.exit_code == 0, done.stderr
    results = json.loads(done.stdout)
    plain, found = results["outcomes"]
    assert (plain["attack"], plain["name"]) == ("none", "edited")
    assert found["cells"]["loss"]["recovered"] is None
    assert [line.partition(":")[0] for line in results["missing"]] == ["recovered and beyond", "beyond"]
    assert "needs a model that never knew the text (--retain)" in done.stderr


def test_prompts_from_a_file(phi, phi_tuned, tmp_path):
    rows = [{"question": "where is the salt?", "answer": "north road"}, {"question": "who?", "answer": "the keeper"}]
    for name, some in (("forget", rows * 2), ("asked", [*rows, {"question": "salt, where?", "answer": "north road"}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)), encoding="utf-8")
    options = ["--rephrased", tmp_path / "asked.jsonl", "--attacks", "rephrase", "--before", phi, *FEW]
    done = run(phi_tuned, "--forget", tmp_path / "forget.jsonl", *options, "--block-size", "64", "--json", "--quiet")
    assert done.exit_code == 0, done.stderr
    _, found = json.loads(done.stdout)["outcomes"]
    assert (found["name"], found["prompts"]) == ("from file", 2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{phi}"], 2, "--forget"),
        (["{phi}", "--forget", "{text}.gone"], 1, "forget.txt.gone"),
        (["{phi}", "--forget", "{empty}"], 1, "empty.txt has no text"),
        (["{phi}", "--forget", "{text}", "--block-size", "99", "--relearn-samples", "2"], 1, "has 2 samples: too few"),
        (["{phi}", "--forget", "{text}", "--prefixes", "9999"], 1, "too few for a context of 9999"),
        (["{phi}", "--forget", "{text}", "--block-size", "300"], 2, "256 positions"),
        (["{phi}", "--forget", "{text}", "--attacks", "relearn,guess"], 2, "--attacks relearn,guess cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "8,1"], 2, "--bits 1 cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "8,8"], 2, "--bits 8,8 cannot be used"),
        (["{phi}", "--forget", "{text}", "--bits", "4g0"], 2, "--bits 4g0 cannot be used"),
        (["{phi}", "--forget", "{text}", "--relearn-epochs", "-1"], 2, "--relearn-epochs -1 is out of range"),
        (["{phi}", "--forget", "{text}", "--relearn-steps", "0,2"], 2, "--relearn-steps 0,2 cannot be used"),
        (["{phi}", "--forget", "{text}", "--batch-size", "4,8"], 2, "--batch-size 4,8"),
        (["{phi}", "--forget", "{text}", "--prompts", "0"], 2, "--prompts 0 is out of range"),
        (["{phi}", "--forget", "{text}", "--learning-rate", "nan"], 2, "--learning-rate is nan"),
        (["{phi}", "--forget", "{text}", "--dtype", "bfloat16"], 2, "relearning needs float32 weights"),
        (["{phi}", "--forget", "{text}", "--before", "{phi}"], 2, "a model is given twice"),
        (["{phi}", "--forget", "{text}", "--attacks", "prefix", "--unrelated", "{text}"], 2, "not the attack relearn"),
    ],
)
def test_mistakes_are_two_lines_and_an_exit_code(arguments, code, message, phi, forget, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text(" \n")
    result = run(*(a.format(phi=phi, text=forget, empty=empty) for a in arguments), "-o", tmp_path / "out")
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_broken_model_is_named(phi, forget, tmp_path):
    broken = AutoModelForCausalLM.from_pretrained(phi)
    broken.model.layers[0].mlp.fc1.bias.data[0] = math.nan
    broken.save_pretrained(tmp_path / "broken")
    tiny.tokenizer().save_pretrained(tmp_path / "broken")
    with pytest.raises(CheckpointError, match=r"retain \(.*broken\): the loss of forget.txt#1 is not finite"):
        taskarith.attack(str(phi), str(forget), retain=str(tmp_path / "broken"), **SMALL)


def test_a_prompt_beyond_the_positions_is_refused(phi, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(tiny.text(60), encoding="utf-8")
    with pytest.raises(UsageError, match=r"takes 257 tokens; .* has 256 positions"):
        taskarith.attack(str(phi), str(long), **SMALL | {"prefixes": (4, 251)})


def test_another_tokenizer_is_refused(phi, phi_tuned, forget, tmp_path):
    other = tmp_path / "other"
    AutoModelForCausalLM.from_pretrained(phi_tuned).save_pretrained(other)
    changed = tiny.tokenizer()
    changed.add_tokens(["keeper", "river"])
    changed.save_pretrained(other)
    with pytest.raises(MismatchError, match="tokenises these texts otherwise"):
        taskarith.attack(str(phi), str(forget), before=str(other), **SMALL)


def test_chats_are_not_rephrased_by_rule(phi, tmp_path):
    chat = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "the keeper of the salt"}]
    (tmp_path / "chats.jsonl").write_text("\n".join([json.dumps({"messages": chat})] * 3), encoding="utf-8")
    with pytest.raises(DataError, match="holds chats, whose templates rules would break"):
        taskarith.attack(str(phi), str(tmp_path / "chats.jsonl"), attacks=["rephrase"], block_size=64)


def test_an_adapter_is_refused(phi, forget, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(phi), LoraConfig(r=2, target_modules=["q_proj"]))
    model.peft_config["default"].base_model_name_or_path = str(phi)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="is an adapter"):
        taskarith.attack(str(tmp_path / "adapter"), str(forget), **SMALL)
