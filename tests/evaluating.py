"""Small evaluations, and what models say by transformers alone."""

from __future__ import annotations

import random

import tiny
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GenerationConfig

from benchmarks.architectures.population import build
from taskarith.data.tokens import Sample
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.score import make_scores

SMALL = {"block_size": 48, "prompts": 3, "prompt_tokens": 8, "continuation_tokens": 12}
LENGTHS = [40, 2, 17, 40, 5, 33, 9, 26, 3]


class Notes:
    def __init__(self):
        self.notes, self.shares = [], []

    def progress(self, what, done, total):
        assert what.startswith("evaluating | ")
        self.shares.append(done / total)

    def note(self, message):
        self.notes.append(message)


def silent(_count):
    return None


def values(evaluation, model, text):
    """All numbers of one model on one text, without intervals."""
    return {name: number.value for name, number in evaluation.scores.by_text[model][text].items()}


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def random_samples():
    rng = random.Random(0)
    ids = [tuple(rng.randrange(1, tiny.VOCABULARY) for _ in range(length)) for length in LENGTHS]
    return [Sample(f"s{n}", row, prompt_length=n % 2 * (len(row) // 2)) for n, row in enumerate(ids)]


def own_scores(model, sample):
    """The loss that transformers calculates, as a sum, and the first choices counted from the logits."""
    ids = torch.tensor([sample.input_ids])
    labels = ids.clone()
    labels[:, : sample.prompt_length] = -100
    with torch.no_grad():
        output = model(input_ids=ids, labels=labels)
    start = max(sample.prompt_length, 1)
    tokens = len(sample.input_ids) - start
    choices = output.logits[0, start - 1 : -1].argmax(-1)
    return float(output.loss) * tokens, tokens, int((choices == ids[0, start:]).sum())


def gemma():
    sizes = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = Gemma2Config(
        **sizes, num_attention_heads=2, num_key_value_heads=1, head_dim=16, final_logit_softcapping=0.5
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.model.embed_tokens.weight.data.mul_(20)  # so that the cap is felt
    return model


def constant_model(folder, token):
    """A Phi that expects one token wherever it is."""
    tiny.save_model(folder)
    model = load(folder)
    model.lm_head.bias.data[token] = 100.0
    model.save_pretrained(folder)
    return folder


def strip(evaluation, row=None):
    """Return the records of all rows or of one, without the row's name and what depends on other rows."""
    return [
        {key: value for key, value in record.items() if key != "model"}
        for record in evaluation.records
        if row in {None, record["model"]} and record["kind"] != "divergence"
    ]


def scores_of(*records):
    return make_scores({sheet.model: sheet for sheet in arrange(records, "here")}, {})


class Words:
    """A tokenizer of numbers."""

    def decode(self, ids, **_):
        return " ".join(map(str, ids))


def tiny_model(name):
    """Return a small model of an architecture, whose tokens differ from row to row."""
    model = build(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.generation_config = GenerationConfig()  # as models are loaded here
    return model
