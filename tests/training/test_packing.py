"""Packed rows: how they share lines, and models that keep them apart or are refused."""

from __future__ import annotations

import random

import architectures
import pytest
import tiny
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel

from taskarith.data.tokens import Sample
from taskarith.errors import UsageError
from taskarith.models.language import prepare_for_text
from taskarith.training.examples import Collator, Example
from taskarith.training.packing import check_packing, lay_out
from taskarith.training.token_loss import token_losses

pytestmark = pytest.mark.usefixtures("one_thread")

WINDOWED = {**tiny._SIZES, "num_key_value_heads": 2, "sliding_window": 4}
CONFIGURATIONS: dict[str, PretrainedConfig] = {
    **{kind: tiny.configuration(kind) for kind in [*tiny.KINDS, *tiny.OTHERS]},
    **{kind: architectures.CONFIGURATIONS[kind] for kind in ("mixtral", "gpt_oss", "qwen2_vl")},
    "a window shorter than a row": transformers.MistralConfig(**WINDOWED),
    "windows and full attention": transformers.Gemma2Config(**WINDOWED, head_dim=8),
    "distances instead of positions": transformers.BloomConfig(vocab_size=99, hidden_size=32, n_layer=2, n_head=4),
    "positions counted from a mask": transformers.OPTConfig(
        vocab_size=99, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32
    ),
    "recurrent and attentive": transformers.JambaConfig(**tiny._SIZES, num_key_value_heads=2, num_experts=2),
}
"""Named by the tests' models, or by what is hard about them."""


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if type(config) in tiny.MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    model = auto.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # positions and states are to matter
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    prepare_for_text(model.eval())
    return model


def ragged(vocabulary: int) -> list[Example]:
    draw = random.Random(0)
    return [
        Example(Sample(str(length), tuple(draw.choices(range(30, vocabulary), k=length)), 0))
        for length in (7, 23, 11, 3, 40, 2, 19, 31)
    ]


def loss(model: PreTrainedModel, examples: list[Example], *, packing: bool) -> float:
    batch = Collator(0, weighted=False, packing=packing)(examples)
    labels, positions = batch.pop("labels"), batch.get("position_ids")
    if positions is not None:
        assert (len(labels), len(examples)) == (2, 8)
        del batch["attention_mask"]
    with torch.no_grad():
        return float(token_losses(model(**batch, use_cache=False).logits, labels).sum())


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_models_lose_the_same_on_packed_rows_or_are_refused_rightly(kind):
    model = build(CONFIGURATIONS[kind])
    examples = ragged(CONFIGURATIONS[kind].get_text_config().vocab_size)
    try:
        check_packing(model, 64)
        refusal = ""
    except UsageError as error:
        refusal = str(error)
    assert not model.training
    padded, packed = (loss(model, examples, packing=packing) for packing in (False, True))
    if refusal:
        assert f"--packing does not work with {type(model).__name__}: it does not keep rows apart" in refusal
        assert abs(packed / padded - 1) > 2e-5
    else:
        assert abs(packed / padded - 1) < 2e-6
    assert bool(refusal) == (kind in REFUSED)


REFUSED = {
    "mamba",
    "bart",
    "gpt_oss",
    "qwen2_vl",
    "distances instead of positions",
    "positions counted from a mask",
    "recurrent and attentive",
}
"""With the pinned transformers; the check above holds with any."""


def test_what_cannot_be_compared_is_refused():
    config = tiny.configuration("moe")
    config.output_router_logits = True
    with pytest.raises(UsageError, match="its loss also balances experts"):
        check_packing(build(config), 64)
    with torch.device("meta"), pytest.raises(UsageError, match="--packing cannot be checked: the weights of Phi"):
        check_packing(AutoModelForCausalLM.from_config(tiny.configuration("phi")), 64)
    model = build(tiny.configuration("phi"))
    forward = model.forward
    model.forward = lambda input_ids, attention_mask=None, **more: forward(input_ids, attention_mask, None, **more)
    with pytest.raises(UsageError, match=r"it does not run on rows end to end: .*position_ids"):
        check_packing(model, 64)


def test_attention_that_is_scaled_by_the_place_on_a_line_takes_short_lines_only():
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 64}
    config = transformers.Llama4TextConfig(
        **tiny._SIZES,
        **sizes,
        no_rope_layers=[1, 0],
        attention_chunk_size=64,
        attn_temperature_tuning=True,
        floor_scale=16,
    )
    model = build(config)
    examples = ragged(config.vocab_size)
    assert abs(loss(model, examples, packing=True) / loss(model, examples, packing=False) - 1) > 2e-6
    check_packing(model, 15)
    with pytest.raises(UsageError, match="from token 16 on it scales attention by the place on a line"):
        check_packing(model, 64)


def test_checking_draws_no_random_numbers():
    model = build(tiny.configuration("gpt2"))  # with dropout
    state = torch.get_rng_state()
    check_packing(model, 64)
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_share_lines_where_that_takes_less_time():
    draw = random.Random(0)
    for _ in range(100):
        lengths = [draw.randint(2, 250) for _ in range(draw.randint(1, 16))]
        lines = lay_out(lengths)
        assert sorted(row for line in lines for row in line) == list(range(len(lengths)))
        area = len(lines) * max(sum(lengths[row] for row in line) for line in lines)
        assert sum(lengths) <= area <= len(lengths) * max(lengths)
    assert sorted(lay_out([250] * 8)) == sorted(lay_out([250] * 7 + [60])) == [[row] for row in range(8)]
    assert len(lay_out([40, *[20] * 6])) < 5
    lengths = [20 + 33 * row for row in range(8)]
    area = len(lay_out(lengths)) * max(sum(lengths[row] for row in line) for line in lay_out(lengths))
    assert area < 1.1 * sum(lengths)
