"""A model that learned two texts and the vector of each, records of rows, and the command."""

from __future__ import annotations

import math
from contextlib import contextmanager

import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.data.load import load_data
from taskarith.edit.in_memory import InMemoryEdit
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import open_model
from taskarith.evaluation.questions import ask
from taskarith.evaluation.records import loss_record
from taskarith.progress import SILENT
from taskarith.sweeps.search_space import Space, find_parts
from taskarith.sweeps.trial import TrialModel

SMALL = {"block_size": 32, "prompts": 8, "prompt_tokens": 6, "continuation_tokens": 8}
LOSSES = SMALL | {"prompts": 0}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]

KNEW, NEVER = ([0.2, 0.3, 0.4, 0.3], [0.6, 0.5, 0.7, 0.6]), ([3.9, 4.1, 4.0, 3.8], [0.1, 0.2, 0.1, 0.15])
"""Losses of blocks and ROUGE-L of prompts of a model that knew a text, and of one that never did."""

RUNS = 150
"""Of a simulation."""
SLACK = 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""Three standard errors of a simulated coverage of 95%."""


def learn(base, folder, paths, steps):
    """Train a tiny model on texts, and save it."""
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    ids = [tokenizer(path.read_text()).input_ids for path in paths]
    blocks = [torch.tensor([one[at : at + 32]]) for one in ids for at in range(0, len(one) - 2, 32)]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        block = blocks[step % len(blocks)]
        model(block, labels=block).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def rows_of(name, losses, rouges, text="forget"):
    """Return records of a row: nats a token of blocks, and ROUGE-L of prompts; and of a text that is kept."""
    found = [loss_record(name, text, f"b{n}", 10 * one, 10, 1) for n, one in enumerate(losses)]
    prompts = [{"kind": "continuation", "model": name, "text": text, "sample": f"p{n}"} for n in range(len(rouges))]
    found += [one | {"rouge_l_f1": rouge} for one, rouge in zip(prompts, rouges, strict=True)]
    return found + [loss_record(name, "keep", f"k{n}", 20.0, 10, 1) for n in range(4)]


def command(lab, *arguments):
    call = ["sweep", lab["tuned"], *map(str, arguments)]
    call += [word for name, path in lab["data"].items() for word in ("--data", f"{name}={path}")]
    return CliRunner().invoke(app, call)


def make_lab(folder):
    """Train the models."""
    paths = [folder / f"{name}.txt" for name in ("forget", "retain", "before")]
    for seed, (path, sentences) in enumerate(zip(paths, (8, 8, 40), strict=True)):
        path.write_text(tiny.text(sentences, seed), encoding="utf-8")
    base = learn(tiny.save_model(folder / "random"), folder / "base", paths[2:], 80)
    tuned = learn(base, folder / "tuned", paths[:2], 120)
    vectors = [learn(base, folder / f"learned-{n}", [path], 60) for n, path in enumerate(paths[:2])]
    return {
        "base": str(base),
        "tuned": str(tuned),
        "forget": f"{vectors[0]}@@{base}",
        "retain": f"{vectors[1]}@@{base}",
        "data": {"forget": str(paths[0]), "retain": str(paths[1])},
    }


def loss_rows(nll, tokens, text="forget"):
    pairs = enumerate(zip(nll.tolist(), tokens.tolist(), strict=True))
    return [{"kind": "loss", "text": text, "sample": str(at), "nll": nll, "tokens": n} for at, (nll, n) in pairs]


@contextmanager
def open_bench(lab, aim, *, kl=0.0, units=None):
    """Open the lab's model to try a coefficient of each kind of module of both vectors: retain's, then forget's."""
    loaded = open_model(lab["tuned"], torch.device("cpu"), None, SILENT)
    measurement = Measurement(32, 0, 6, 8, "auto")
    samples = ask(loaded, {name: load_data(path) for name, path in lab["data"].items()}, measurement).samples
    with InMemoryEdit(loaded.model, lab["tuned"], [lab["retain"]], [lab["forget"]]) as memory:
        space = Space(memory.edit, find_parts(memory.dimensions, ["module"]), 0.0, 2.0)
        yield TrialModel(loaded, samples, measurement, memory, space, aim, kl, units)
