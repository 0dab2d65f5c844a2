"""Run other tools' own evaluation code and taskarith on one model, texts and prompts: ``python -m benchmarks.parity``.

Writes benchmarks/RESULTS-parity.md. The other tools are cloned into benchmarks/.peers, and are never committed; what
cannot be fetched is left out by name. Needs lm-eval, rouge-score, scikit-learn, and the demo's model.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import math
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.parity import peers
from benchmarks.parity.bigram import save_bigram
from benchmarks.parity.data import HOLDOUT, KNOWN, choices, leaked_rows, learned_rows, write_muse, write_tofu
from benchmarks.results import bullets, table
from taskarith.checkpoints.packaged import demo_model
from taskarith.checkpoints.resolve import resolve_model
from taskarith.evaluation.evaluate import evaluate
from taskarith.evaluation.metrics.rouge import rouge_l
from taskarith.training.finetune import finetune

_HERE = Path(__file__).resolve().parents[1]
_LEARNING: dict[str, Any] = {"num_train_epochs": 6, "learning_rate": 5e-5, "per_device_train_batch_size": 4}
_EQUAL = 1e-4  # of the value: losses in float32 depend on the batches
_PRINTED = 0.05  # percent that Min-K%++'s script rounds away
_SMALL = 0.02
"""Of the value: the most that a known reason explains."""
_REASONS = {
    ("open-unlearning", "truth_ratio"): "open-unlearning adds 1e-10 to the denominator",
    ("open-unlearning", "real_authors probability"): "open-unlearning adds 1e-10 to the denominator",
    ("open-unlearning", "world_facts probability"): "open-unlearning adds 1e-10 to the denominator",
    ("open-unlearning", "model_utility"): "the 1e-10 of its parts",
    ("open-unlearning", "privleak"): "open-unlearning adds 1e-10 to the denominator",
}
_ABOUT = """Written by `make parity`. The other tools run their own code on the same weights (float32, on a CPU), texts
and questions; each generates for itself. *Difference* is taskarith's number less theirs; *equal* is within 1e-4 of the
value, which is what float32 losses differ by from batch to batch."""


@dataclass(frozen=True)
class Row:
    """One number of one tool.

    :param source: The tool.
    :param metric: Its name here, with that of its text.
    :param theirs: By the tool's code.
    :param ours: By ``eval``.
    :param allowed: Difference that is rounding.
    """

    source: str
    metric: str
    theirs: float
    ours: float
    allowed: float

    @property
    def is_equal(self) -> bool:
        """Whether both are the same but for rounding."""
        return abs(self.ours - self.theirs) <= self.allowed

    @property
    def reason(self) -> str:
        """Why they differ; a question mark where that is not known."""
        if abs(self.ours - self.theirs) > _SMALL * max(1.0, abs(self.theirs)):
            return "?"
        known = [why for (source, part), why in _REASONS.items() if source == self.source and part in self.metric]
        return "equal" if self.is_equal else next(iter(known), "?")


def main() -> int:
    """Fetch, run and write the table; the exit code says whether a difference has no reason."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__)
    parser.add_argument("--peers", type=Path, default=_HERE / ".peers", help="where the copies of the tools are kept")
    parser.add_argument(
        "--sources", type=Path, help="folder with git repositories of the tools, instead of the network"
    )
    parser.add_argument("--work", type=Path, default=_HERE / ".work" / "parity", help="where models and data are kept")
    parser.add_argument("--table", type=Path, default=_HERE / "RESULTS-parity.md")
    parser.add_argument("--golden", type=Path, help="on a tiny model, write what the others say to this file")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ["HF_DATASETS_CACHE"] = str(options.work / "datasets")
    base, tuned = small_models(options.work) if options.golden else _models(options.work)
    found, said = peers.fetch_peers(options.peers, options.sources)
    rows = [
        row
        for part in (_unlearning, _muse, _min_k, _tofu, _lm_eval, _rouge)
        for row in part(found, base, tuned, options.work)
    ]
    if options.golden:
        others = [row for row in rows if row.source not in {"lm-eval", "rouge-score"}]
        sources = dict.fromkeys(row.source for row in others)
        golden = {name: {row.metric: row.theirs for row in others if row.source == name} for name in sources}
        options.golden.write_text(json.dumps({"made": said, **golden}, indent=1) + "\n", encoding="utf-8")
        return 0
    text = _write(rows, said)
    options.table.write_text(text, encoding="utf-8")
    print(text)
    return 1 if any(row.reason == "?" for row in rows) else 0


def _models(work: Path) -> tuple[Path, Path]:
    """Return the demo's model and what a fine-tune of it on half of the texts gives, made once."""
    base, tuned = work / "base", work / "tuned"
    if not tuned.exists():
        work.mkdir(parents=True, exist_ok=True)
        shutil.copytree(resolve_model(str(demo_model())).path, base, dirs_exist_ok=True)
        rows = work / "learned.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for row in [*learned_rows(), *leaked_rows()]), encoding="utf-8")
        finetune(str(base), [str(rows)], tuned, **_LEARNING)
    write_tofu(work / "tofu")
    write_muse(work / "muse")
    return base, tuned


def small_models(work: Path) -> tuple[Path, Path]:
    """Write the data, and two models that count pairs of tokens: one of most texts, and one of few."""
    learned = [row["prompt"] + row["completion"] for row in learned_rows()]
    words = [*learned, *HOLDOUT]
    write_tofu(work / "tofu")
    write_muse(work / "muse")
    few, most = [*learned[::3], *HOLDOUT[:4]], [*learned[:-3], *HOLDOUT[:2], *choices()]
    return save_bigram(work / "base", few, words), save_bigram(work / "tuned", most, words)


def _open(model: Path) -> tuple[Any, Any]:
    """Load a model as the other tools do, with the end tokens of its own generation_config.json."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval(), tokenizer


def _compare(source: str, theirs: Mapping[str, float], ours: Mapping[str, Any], text: str = "") -> Iterator[Row]:
    for name, value in theirs.items():
        mine = ours[name].value
        yield Row(source, f"{text} {name}".strip(), value, mine, _EQUAL * max(1.0, abs(value)))


def _unlearning(found: Mapping[str, Path], base: Path, tuned: Path, work: Path) -> Iterator[Row]:
    if "open-unlearning" not in found:
        return
    tagged = work / "tagged"
    tagged.mkdir(exist_ok=True)
    for file in (work / "tofu").glob("*.json"):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        (tagged / file.name).write_text("".join(json.dumps(_tagged(row)) + "\n" for row in rows), encoding="utf-8")
    theirs = peers.open_unlearning(found["open-unlearning"], [_open(tuned), _open(base)], tagged, work / "tofu")
    scores = evaluate([str(tuned)], {}, reference=str(base), benchmark=f"tofu={work / 'tofu'}", device="cpu").scores
    for text, numbers in theirs.items():
        ours = scores.by_text[str(tuned)][text] if text else scores.overall[str(tuned)]
        yield from _compare("open-unlearning", numbers, ours, text)


def _tagged(row: dict[str, Any]) -> dict[str, Any]:
    """Put the tag that TOFU has before an answer into the answer: open-unlearning shows it with the question."""

    def tag(value: Any) -> Any:
        return [tag(one) for one in value] if isinstance(value, list) else f"Answer: {value}"

    return {key: value if key == "question" else tag(value) for key, value in row.items()}


def _muse(found: Mapping[str, Path], base: Path, tuned: Path, work: Path) -> Iterator[Row]:
    if "muse_bench" not in found:
        return

    def pairs(name: str, first: str, second: str) -> list[tuple[str, str]]:
        rows = json.loads((work / "muse" / f"{name}.json").read_text(encoding="utf-8"))
        return [(row[first], row[second]) for row in rows]

    def asked(side: str) -> list[list[tuple[str, str]]]:
        return [pairs(f"knowmem/{side}_qa{end}", "question", "answer") for end in ("_icl", "")]

    data = {"verbmem": pairs("verbmem/forget", "prompt", "gt"), "forget": KNOWN, "holdout": HOLDOUT}
    data |= {f"knowmem_{side}": asked(side) for side in ("forget", "retain")}
    theirs = peers.muse(found["muse_bench"], *_open(tuned), data)
    how = {"reference": str(base), "benchmark": f"muse-books={work / 'muse'}", "device": "cpu"}
    yield from _compare("MUSE", theirs, evaluate([str(tuned)], {}, **how).scores.overall[str(tuned)])


def _min_k(found: Mapping[str, Path], base: Path, tuned: Path, work: Path) -> Iterator[Row]:
    del base
    if "mink-plus-plus" not in found:
        return
    for name, texts in (("forget", KNOWN), ("holdout", HOLDOUT)):
        rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (work / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    labelled = [(text, label) for label, texts in ((1, KNOWN), (0, HOLDOUT)) for text in texts]
    theirs = peers.min_k_plus_plus(found["mink-plus-plus"], tuned, labelled)
    data = {name: str(work / f"{name}.jsonl") for name in ("forget", "holdout")}
    ours = evaluate([str(tuned)], data, prompts=0, device="cpu").scores.overall[str(tuned)]
    for name, printed in theirs.items():
        yield Row("Min-K%++", name, float(printed.rstrip("%")), 100 * ours[name].value, _PRINTED)


def _tofu(found: Mapping[str, Path], base: Path, tuned: Path, work: Path) -> Iterator[Row]:
    """Compare model utility on a log in TOFU's form, made of the answers that were measured."""
    del base
    if "tofu" not in found:
        return
    evaluation = evaluate([str(tuned)], {}, benchmark=f"tofu={work / 'tofu'}", device="cpu")
    files = {"eval_log.json": "retain", "eval_log_forget.json": "forget"}
    files |= {"eval_real_author_wo_options.json": "real_authors", "eval_real_world_wo_options.json": "world_facts"}
    log: dict[str, Any] = {}
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    for file, text in files.items():
        mine = [record for record in evaluation.records if record["text"] == text]
        answers = {record["sample"]: record for record in mine if record["kind"] == "answer"}
        said = {record["sample"]: record for record in mine if record["kind"] == "continuation"}
        log[file] = {
            "avg_gt_loss": {key: one["loss"] for key, one in answers.items()},
            "average_perturb_loss": {key: one["perturbed_losses"] for key, one in answers.items()},
            "avg_paraphrased_loss": {key: one["paraphrased_loss"] for key, one in answers.items()},
            "rougeL_recall": {
                key: scorer.score(one["reference"], one["continuation"])["rougeL"].recall for key, one in said.items()
            },
        }
    theirs = {"model_utility": peers.tofu_utility(found["tofu"], log)}
    yield from _compare("TOFU", theirs, evaluation.scores.overall[str(tuned)])


def _lm_eval(found: Mapping[str, Path], base: Path, tuned: Path, work: Path) -> Iterator[Row]:
    """Compare a task of two choices with lm-eval on the model's folder."""
    del found, base
    import lm_eval
    from lm_eval.tasks import TaskManager

    folder = work / "tasks"
    folder.mkdir(exist_ok=True)
    rows = [
        {"start": " ".join(text.split()[:9]), "ends": ["quietly.", "and waited."], "right": n % 2}
        for n, text in enumerate(KNOWN)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": "parity",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{start}}",
        "doc_to_choice": "{{ends}}",
        "doc_to_target": "right",
        "metric_list": [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")],
    }
    (folder / "parity.yaml").write_text(json.dumps(task), encoding="utf-8")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    model = {"pretrained": str(tuned), "dtype": "float32", "device": "cpu"}
    done: Any = lm_eval.simple_evaluate("hf", model_args=model, tasks=["parity"], task_manager=manager)
    theirs = {name: done["results"]["parity"][f"{name},none"] for name in ("acc", "acc_norm")}
    ours = evaluate([str(tuned)], {}, tasks=["parity"], task_folder=folder, device="cpu", dtype="float32")
    yield from _compare("lm-eval", theirs, ours.scores.by_text[str(tuned)]["parity"])


def _rouge(found: Mapping[str, Path], base: Path, tuned: Path, work: Path) -> Iterator[Row]:
    """Compare ROUGE-L on 2,000 random pairs; the largest difference of any counts."""
    del found, base, tuned, work
    rng, words = random.Random(42), " ".join(KNOWN).split()  # noqa: S311
    for stem in (False, True):
        scorer = RougeScorer(["rougeL"], use_stemmer=stem)
        worst = (0.0, 0.0)
        for _ in range(2000):
            first, second = (" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(2))
            theirs, ours = scorer.score(first, second)["rougeL"], rouge_l(first, second, stem=stem)
            both = (theirs.fmeasure, ours.f1)
            worst = max(worst, both, key=lambda pair: abs(pair[0] - pair[1]))
        yield Row("rouge-score", f"ROUGE-L F1{', stemmed' if stem else ''}, worst of 2,000", *worst, 1e-12)


def _write(rows: list[Row], said: list[str]) -> str:
    cells = [
        (row.source, row.metric, f"{row.theirs:.7g}", f"{row.ours:.7g}", _short(row.ours - row.theirs), row.reason)
        for row in rows
    ]
    head = ("tool", "metric", "theirs", "taskarith", "difference", "reason")
    title = f"# Results of `python -m benchmarks.parity`, {datetime.datetime.now(tz=datetime.UTC).date()}"
    return "\n\n".join([title, _ABOUT, bullets(said), table(head, cells)]) + "\n"


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if math.isfinite(value) else str(value)


if __name__ == "__main__":
    raise SystemExit(main())
