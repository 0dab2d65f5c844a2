"""What eval measures only when it is asked: continuations that are drawn, and gradients."""

from __future__ import annotations

import json

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from taskarith.cli.main import app
from taskarith.data.tokens import Sample
from taskarith.evaluation.extras import gradient_norm
from taskarith.evaluation.metrics.membership import auc
from taskarith.evaluation.metrics.rouge import rouge_l

SMALL = ["--prompts", "3", "--prompt-tokens", "4", "--continuation-tokens", "6", "--block-size", "24"]


@pytest.mark.parametrize("end_tokens", [0, 1])
def test_a_gradient_norm_is_open_unlearnings(phi, end_tokens):
    """Its ``GradNormAttack`` gave the same of tiny models; here its rule by backward passes."""
    model = AutoModelForCausalLM.from_pretrained(phi).eval()
    ids = tiny.tokenizer()("The keeper of the north road").input_ids
    labels = [*[-100] * 3, *ids[3 : len(ids) - end_tokens], *[-100] * end_tokens]
    model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
    expected = torch.stack([weight.grad.norm() for weight in model.parameters()]).mean()
    model.zero_grad()
    frozen = model.get_output_embeddings().weight.requires_grad_(False)  # as an adapter's base is
    assert gradient_norm(model, Sample("x", tuple(ids), 3, end_tokens)) == pytest.approx(float(expected), rel=1e-5)
    assert not frozen.requires_grad
    assert all(weight.grad is None for weight in model.parameters())


def run(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def lines(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.fixture
def asked(tmp_path):
    texts = {name: tmp_path / f"{name}.txt" for name in ("forget", "holdout")}
    for seed, path in enumerate(texts.values()):
        path.write_text(tiny.text(20, seed), encoding="utf-8")
    return [part for name, path in texts.items() for part in ("--data", f"{name}={path}")] + SMALL


def test_draws_and_gradients_are_records_of_their_own(phi, phi_tuned, asked, tmp_path):
    edit = [phi, "--negate", phi_tuned, "--alpha", "0,1", *asked]
    plain = run(*edit, "-o", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    assert "leak@k of forget: needs sampled continuations: eval --draws N" in " ".join(plain.stderr.split())
    assert "AUC of gradient norm: needs gradients" in " ".join(plain.stderr.split())
    done = [run(*edit, "--draws", 3, "--gradient-norms", "-o", tmp_path / name) for name in ("one", "two")]
    assert [one.exit_code for one in done] == [0, 0], done[0].output
    records = lines(tmp_path / "one")
    assert records == lines(tmp_path / "two")
    assert [one for one in records if one["kind"] not in {"sampled", "gradient"}] == lines(tmp_path / "plain")
    rows = sorted({record["model"] for record in records})
    of = {kind: [r for r in records if (r["model"], r["kind"]) == (rows[1], kind)] for kind in ("sampled", "gradient")}
    results = json.loads((tmp_path / "one/results.json").read_text())
    drawn = [r for r in of["sampled"] if r["text"] == "forget"]
    assert [len(record["continuations"]) for record in drawn] == [3] * 3
    best = [max(rouge_l(r["reference"], text, stem=True).recall for text in r["continuations"]) for r in drawn]
    leaks = [results["scores"][rows[1]]["forget"][f"leak_at_{k}"]["value"] for k in (1, 2, 3)]
    assert leaks == sorted(leaks)
    assert leaks[2] == pytest.approx(sum(best) / 3)
    norms = [[-r["norm"] for r in of["gradient"] if r["text"] == text] for text in ("forget", "holdout")]
    assert results["overall"][rows[1]]["auc_gradient"]["value"] == auc(*norms)
    first = [r["norm"] for r in records if (r["model"], r["kind"]) == (rows[0], "gradient")]
    assert [-norm for side in norms for norm in side] != [-norm for norm in first]  # of the edited weights
    arguments = json.loads((tmp_path / "one/taskarith.json").read_text())["arguments"]
    assert (arguments["draws"], arguments["gradient_norms"], arguments["seed"]) == (3, True, 42)
    again = CliRunner().invoke(app, ["score", str(tmp_path / "one"), "--json"])
    assert json.loads(again.stdout)["scores"] == results["scores"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--draws", "-1"], "--draws -1 is out of range"),
        (["--draws", "2", "--prompts", "0"], "--draws needs prompts"),
        (["--gradient-norms"], "--gradient-norms needs texts to compare"),
    ],
)
def test_what_cannot_be_measured_is_refused(phi, asked, options, words):
    done = run(phi, *asked[:2], *options)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
