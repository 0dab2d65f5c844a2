"""Small attacks, and their outcomes made by hand."""

from __future__ import annotations

import numpy as np
import tiny
import torch
from typer.testing import CliRunner

from taskarith.attacks.recovery import outcome
from taskarith.cli.main import app
from taskarith.data.load import load_data
from taskarith.data.tokens import tokenize
from taskarith.evaluation.models import open_model
from taskarith.evaluation.records import continuation_record, loss_record
from taskarith.progress import SILENT

CPU = torch.device("cpu")
SMALL = {"block_size": 32, "prompts": 4, "prompt_tokens": 8, "continuation_tokens": 6, "prefixes": (4, 12), "draws": 2}
SMALL |= {"relearn_steps": (1, 3), "learning_rate": 3e-3}


def opened(folder):
    return open_model(str(folder), CPU, torch.float32, SILENT)


def bits_of(model):
    return {name: values.detach().clone().view(torch.int32) for name, values in model.named_parameters()}


def same_bits(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def samples_of(path, block=32):
    return tokenize(load_data(str(path)), tiny.tokenizer(), block)


def said(model, text, sample, words, group=None):
    record = continuation_record(model, text, sample, "", "one two three four", words)
    return record | ({"group": group} if group else {})


def many(model, nlls, text="forget"):
    return [loss_record(model, text, f"s{place}", nll, 10, 5) for place, nll in enumerate(nlls)]


def compared(name, shift, n=12, attack="quantise", **more):
    """The outcome of an attack that lowers the loss by ``shift`` nats a sample of 3 that the edit took."""
    rng = np.random.default_rng(sum(map(ord, name)))
    edited, noise = 40 + rng.normal(0, 2, n), rng.normal(0, 0.5, (3, n))
    records = many("before", edited - 30 + noise[0]) + many("edited", edited) + many("retain", edited)
    records += many("edited x", edited - 10 * shift + noise[1]) + many("retain x", edited + noise[2])
    return outcome(records, attack=attack, name=name, state="x", **more)


def run(*arguments):
    return CliRunner().invoke(app, ["attack", *map(str, arguments)])


FEW = ["--block-size", "32", "--prompts", "3", "--prompt-tokens", "8", "--continuation-tokens", "6"]
FEW += ["--prefixes", "4,12", "--draws", "2", "--relearn-steps", "1,2"]
