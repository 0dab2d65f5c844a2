"""`python -m benchmarks.evaluation`: how fast `eval` is, beside lm-eval and beside models that are written first.

Needs lm-eval and the output of `make demo`. Writes benchmarks/RESULTS-evaluation.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from benchmarks.measure import warm_up
from benchmarks.results import bullets, machine, table
from taskarith.data.load import load_data
from taskarith.evaluation.batches import Batching
from taskarith.evaluation.generation import continue_greedily
from taskarith.evaluation.loss import score_samples
from taskarith.evaluation.measure import measure
from taskarith.evaluation.measurement import Measurement
from taskarith.evaluation.models import Loaded, open_model, parse_dtype
from taskarith.evaluation.questions import Asked, Questions, ask
from taskarith.evaluation.read_records import arrange
from taskarith.evaluation.score import make_scores
from taskarith.progress import SILENT

_OURS, _LM_EVAL = "taskarith", "lm-eval"
_ALPHAS = ("0", "0.2", "0.4", "0.6", "0.8", "1")
_FAMILIES = {
    "loss": "loss, perplexity, accuracy",
    "memorisation": "exact memorisation, extraction strength",
    "membership": "Min-K%, Min-K%++, zlib",
    "divergence": "KL and agreement with another model",
}

_ABOUT_REQUESTS = """The same token sequences, batches and dtype on one model in memory; medians of seconds.
*Difference* is the largest of any sequence's log-likelihood, per token in nats, or how many continuations are equal.
taskarith also finds the first choice and the standardised score of every token in these seconds, lm-eval whether all
are first choices."""

_ABOUT_FAMILIES = """One pass of taskarith gives all numbers, from records of every token to intervals of 95 %.
lm-eval's pass gives the sum of a sequence's log-likelihoods; with one run for each family of numbers there is a pass
for each, which here ends with that sum. The pass of the reference is not counted on either side."""

_ABOUT_ALPHAS = """One text of {tokens:,} tokens, losses only; each command from start to end, loading and
writing included, input files in the page cache. The first of the models is the reference of the others both times."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one run, by the clock and of the processor."""

    clock: float
    processor: float


def main() -> None:
    """Measure, print the report and write it."""
    options = _options()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    facts = machine(_versions("lm_eval", "transformers"))
    model = options.model or options.demo / "tuned"
    loaded = open_model(str(model), torch.device("cpu"), parse_dtype(options.dtype), SILENT)
    size, dtype = loaded.model.num_parameters() / 1e6, str(loaded.model.dtype).removeprefix("torch.")
    about = f"A model of {size:,.0f} M parameters in {dtype}, the text `{options.text}` of the demo"
    facts.append(f"{about}; {torch.get_num_threads()} threads, medians of {options.rounds} interleaved rounds")
    parts = [f"# Results of `python -m benchmarks.evaluation`, {_today()}", bullets(facts)]
    runs = {"requests": _requests, "families": _families, "alphas": _alphas}
    for name in options.only:
        parts.append(runs[name](loaded, options))
        print(parts[-1], end="\n\n", flush=True)
        options.output.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="output of taskarith demo")
    parser.add_argument("--model", type=Path, help="another model folder than the demo's tuned; alphas need it to fit")
    parser.add_argument("--text", default="saga_1.txt", help="of the demo's texts")
    parser.add_argument("--dtype", default="auto", help="of the weights in memory, as for eval")
    parser.add_argument("--blocks", nargs="+", default=["256x4", "64x16"], help="tokens of a sequence x batch size")
    parser.add_argument("--prompts", type=int, default=8, help="greedy continuations")
    parser.add_argument("--continuation-tokens", type=int, default=32)
    parser.add_argument("--generation-batches", nargs="+", type=int, default=[1, 8], help="prompts of a batch")
    parser.add_argument("--rounds", type=int, default=3, help="after one that is not counted")
    parser.add_argument("--work-dir", type=Path, help="folder for the six models; needs their room")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "RESULTS-evaluation.md")
    parts = ["requests", "families", "alphas"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    return parser.parse_args()


def _requests(loaded: Loaded, options: argparse.Namespace) -> str:
    """Time the same log-likelihoods and the same greedy continuations."""
    rows = []
    for shape in options.blocks:
        block, batch = map(int, shape.split("x"))
        questions = _ask(loaded, options, block, batch)
        title = f"log-likelihood, {len(questions.samples)} sequences of up to {block} tokens, batches of {batch}"
        tokens = questions.cost(0)
        rows.append([title, *_speeds(tokens, *_log_likelihoods(loaded, questions, batch, options.rounds))])
    for batch in options.generation_batches:
        questions = _ask(loaded, options, 256, batch, options.prompts)
        found, equal, count = _continuations(loaded, questions, batch, options)
        title = f"greedy, {count} prompts and {options.continuation_tokens} new tokens, batches of {batch}"
        rows.append([title, *_speeds(count * options.continuation_tokens, found, f"{equal} of {count} equal")])
    header = ["", "taskarith, tokens/s", "lm-eval, tokens/s", "x as fast (goal: at least 1)"]
    header += ["the same of processor time", "difference"]
    return "\n\n".join(["## The same requests", _ABOUT_REQUESTS, table(header, rows)])


def _log_likelihoods(
    loaded: Loaded, questions: Questions, batch: int, rounds: int
) -> tuple[dict[str, list[Timing]], str]:
    samples = [sample for _, sample in questions.samples]
    ours, theirs = score_samples(loaded.model, samples, Batching(batch)), []
    found = _race(
        {
            _OURS: lambda: score_samples(loaded.model, samples, Batching(batch)),
            _LM_EVAL: _lm_eval_pass(loaded, questions, batch, theirs),
        },
        rounds,
    )
    gaps = [abs(score.nll + other) / score.tokens for score, other in zip(ours, theirs, strict=True)]
    return found, f"{max(gaps):.1e}"


def _continuations(
    loaded: Loaded, questions: Questions, batch: int, options: argparse.Namespace
) -> tuple[dict[str, list[Timing]], int, int]:
    """Continue the prompts that lm-eval, which takes texts, tokenises as they are."""
    tokens, tokenizer = options.continuation_tokens, loaded.tokenizer
    prompts = [p for _, p in questions.prompts if tuple(tokenizer(p.text).input_ids) == p.input_ids]
    harness = HFLM(pretrained=loaded.model, tokenizer=tokenizer, batch_size=batch)
    asked = {"until": [], "max_gen_toks": tokens, "do_sample": False}
    requests = [Instance("generate_until", {}, (p.text, asked), i) for i, p in enumerate(prompts)]
    texts: dict[str, list[str]] = {}

    def ours() -> None:
        texts[_OURS] = continue_greedily(
            loaded.model,
            tokenizer,
            prompts,
            Batching(batch),
            max_new_tokens=tokens,
            end_ids=loaded.end_ids,
        )

    def theirs() -> None:
        texts[_LM_EVAL] = harness.generate_until(requests, disable_tqdm=True)

    found = _race({_OURS: ours, _LM_EVAL: theirs}, options.rounds)
    equal = sum(first == second for first, second in zip(texts[_OURS], texts[_LM_EVAL], strict=True))
    return found, equal, len(prompts)


def _families(loaded: Loaded, options: argparse.Namespace) -> str:
    """Time one pass for all numbers against one for each family."""
    block, batch = map(int, options.blocks[0].split("x"))
    questions, measurement = _ask(loaded, options, block, batch), _settings(options, block, batch)
    halves = (("holdout" if number % 2 else "forget", sample) for number, (_, sample) in enumerate(questions.samples))
    questions = Questions(tuple(halves), ())  # membership compares two texts
    _, reference = measure(Asked(loaded, questions), measurement, "reference", _ignore, keep=True)
    names: set[str] = set()

    def shared() -> None:
        records, _ = measure(Asked(loaded, questions), measurement, "model", _ignore, reference=reference)
        scores = make_scores({sheet.model: sheet for sheet in arrange(records, "the benchmark")}, {})
        names.update(scores.by_text["model"]["forget"], scores.overall["model"])

    one = _lm_eval_pass(loaded, questions, batch, [])

    def separate() -> None:
        for _ in _FAMILIES:
            one()

    found = _race({"shared": shared, "one": one, "separate": separate}, options.rounds)
    base = found["one"]
    titles = {
        "one": "lm-eval, log-likelihoods alone, one pass",
        "shared": "taskarith, all families in one pass",
        "separate": f"lm-eval, a run for each of the {len(_FAMILIES)} families",
    }
    lines = [
        [titles[name], f"{_clock(found[name]):.2f}", _ratio(found[name], base), _ratio(found[name], found["shared"])]
        for name in titles
    ]
    header = ["", "seconds", "/ one pass of lm-eval", "/ taskarith's shared pass (goal of separate runs: at least 2)"]
    lists = [f"{name}: {numbers}" for name, numbers in _FAMILIES.items()] + [
        f"Numbers found: {', '.join(sorted(names))}"
    ]
    return "\n\n".join(["## Numbers that share a pass", _ABOUT_FAMILIES, bullets(lists), table(header, lines)])


def _alphas(loaded: Loaded, options: argparse.Namespace) -> str:
    """Time six alphas in memory against six written models."""
    model, vector = options.model or options.demo / "tuned", options.demo / "unlearned" / "forget.safetensors"
    data = ["--data", f"forget={options.demo / 'texts' / options.text}", "--prompts", "0", "--dtype", options.dtype]
    warm_up([*model.glob("*.safetensors"), vector])
    with TemporaryDirectory(dir=options.work_dir, prefix="alphas-") as work:
        folders = [Path(work) / f"alpha-{alpha}" for alpha in _ALPHAS]
        memory, found = _timed("eval", model, "--negate", vector, "--alpha", ",".join(_ALPHAS), *data)
        writing = [
            _timed("apply", model, "--negate", f"{vector}:{alpha}", "-o", folder)[0]
            for alpha, folder in zip(_ALPHAS, folders, strict=True)
        ]
        reading, written = _timed("eval", *folders, *data)
        size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    losses = [[row["forget"]["loss"]["value"] for row in each["scores"].values()] for each in (found, written)]
    gap = max(abs(first - second) for first, second in zip(*losses, strict=True))
    megabytes = f"{size / 1e6:,.0f}"
    rows = [
        ["six alphas in memory, one eval", *_sums([memory]), "0", "1.00"],
        ["six apply", *_sums(writing), megabytes, ""],
        ["one eval of the six folders", *_sums([reading]), "", ""],
        ["six apply and that eval", *_sums(both := [*writing, reading]), megabytes, _ratio_of_sums(both, memory)],
    ]
    tokens = _ask(loaded, options, 256, 1).cost(0)
    header = ["", "seconds", "processor seconds", "MB written", "/ in memory"]
    end = f"The losses differ by at most {gap:.1e} nats. One run each."
    return "\n\n".join(["## Six alphas", _ABOUT_ALPHAS.format(tokens=tokens), table(header, rows), end])


def _ask(loaded: Loaded, options: argparse.Namespace, block: int, batch: int, prompts: int = 0) -> Questions:
    texts = {"forget": load_data(str(options.demo / "texts" / options.text))}
    return ask(loaded, texts, _settings(options, block, batch, prompts))


def _settings(options: argparse.Namespace, block: int, batch: int, prompts: int = 0) -> Measurement:
    return Measurement(block, prompts, 32, options.continuation_tokens, batch)


def _lm_eval_pass(loaded: Loaded, questions: Questions, batch: int, sums: list[float]) -> Callable[[], None]:
    """Return a pass of lm-eval over the samples, which fills in their log-likelihoods.

    It is given tokens, as its public methods give them on: a text cut in blocks is not always tokenised as it was.
    """
    harness = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch)
    requests = []
    for _, sample in questions.samples:
        ids, start = list(sample.input_ids), max(1, sample.prompt_length)
        requests.append((("", ""), ids[:start], ids[start:]))

    def run() -> None:
        sums[:] = [total for total, _ in harness._loglikelihood_tokens(requests, disable_tqdm=True)]

    return run


def _race(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Timing]]:
    """Run each once, and then in turns."""
    found: dict[str, list[Timing]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            clock, processor = time.perf_counter(), time.process_time()
            run()
            timing = Timing(time.perf_counter() - clock, time.process_time() - processor)
            if number:
                found[name].append(timing)
    return found


def _speeds(tokens: int, found: Mapping[str, Sequence[Timing]], difference: str) -> list[str]:
    speeds = [f"{tokens / _clock(found[name]):.1f}" for name in (_OURS, _LM_EVAL)]
    processor = [median(timing.processor for timing in found[name]) for name in (_OURS, _LM_EVAL)]
    return [*speeds, _ratio(found[_LM_EVAL], found[_OURS]), f"{processor[1] / processor[0]:.2f}", difference]


def _ratio(above: Sequence[Timing], below: Sequence[Timing]) -> str:
    return f"{_clock(above) / _clock(below):.2f}"


def _ratio_of_sums(above: Sequence[Timing], below: Timing) -> str:
    return f"{sum(timing.clock for timing in above) / below.clock:.2f}"


def _clock(timings: Sequence[Timing]) -> float:
    return median(timing.clock for timing in timings)


def _sums(timings: Sequence[Timing]) -> list[str]:
    return [f"{sum(t.clock for t in timings):.1f}", f"{sum(t.processor for t in timings):.1f}"]


def _timed(*arguments: object) -> tuple[Timing, dict[str, Any]]:
    """Run a command of taskarith; return how long it took and its result."""
    command = [sys.executable, "-m", "taskarith", *map(str, arguments), "--json", "--quiet"]
    clock, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - clock
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    processor = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    return Timing(seconds, processor), json.loads(done.stdout)


def _versions(*packages: str) -> str:
    return ", ".join(f"{package} {version(package)}" for package in packages)


def _today() -> str:
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def _ignore(_: object) -> None:
    """Progress is of no interest here."""


if __name__ == "__main__":
    main()
