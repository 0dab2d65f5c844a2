"""`python -m benchmarks.generation`: how fast continuations are made, beside transformers' `generate`.

Writes benchmarks/RESULTS-generation.md.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig

from benchmarks.results import bullets, machine, table
from taskarith.data.load import load_data
from taskarith.evaluation.batches import Batching, batch_start, pad
from taskarith.evaluation.generation import Sampling, continue_greedily, continue_sampled
from taskarith.evaluation.grouping import can_decode
from taskarith.evaluation.models import Loaded, open_model, parse_dtype
from taskarith.evaluation.prompts import Prompt
from taskarith.progress import SILENT

_ABOUT = """Seconds in one process, the model in memory; medians of {rounds} interleaved rounds after one that is not
counted. `generate` is transformers' own, greedy, of the same prompts in batches as given, sorted by length, padded on
the left; taskarith chooses its batch. *Equal* is how many continuations are the same text.

- *a text*: windows of the demo's manual, 64 tokens of prompt; no continuation ends early.
- *a text it knows*: the same of a model that learned it, so that the true continuation is a good guess.
- *questions after solved ones*: ten solved questions, the same for all, and one more, as KnowMem of MUSE asks; the
  continuation is over where the next question would begin, which `generate` cannot know.
- *a chat*: questions in the model's chat template, which it ends with an end token.
- *{draws} draws of a text*: sampled at temperature 1, as for leak@k; each draws samples of its own, so that none are
  compared. A batch is of continuations."""

_QUESTIONS = (
    ("Which river flows through {}?", "The river is the {}."),
    ("Who keeps the gate of {}?", "{} keeps the gate."),
    ("What do they sell in {}?", "They sell {}."),
)
_PLACES = (
    "Arden",
    "Brall",
    "Corvin",
    "Dellmoor",
    "Esk",
    "Farrow",
    "Gilden",
    "Harth",
    "Ivel",
    "Jorrow",
    "Kestle",
    "Lorn",
)
_DRAWS = 8
_ENDS = ("\n\n", "\nQuestion", "Question:")


@dataclass(frozen=True)
class Task:
    """Prompts and how they are continued.

    :param limit: Maximum tokens of a continuation.
    :param draws: Sampled continuations of each prompt; greedy ones if 0.
    """

    title: str
    loaded: Loaded
    prompts: Sequence[Prompt]
    limit: int
    draws: int = 0


def main() -> None:
    """Measure, print the table and write it."""
    options = _options()
    device = torch.device(options.device)
    facts = machine(f"transformers {version('transformers')}")
    facts.append(f"{options.model}, {options.dtype}, on {options.device}; {torch.get_num_threads()} threads")
    rows: list[list[str]] = []
    for model, names in ((options.model, ("text", "questions", "chat", "draws")), (options.knows, ("known",))):
        if model is None:
            continue
        loaded = open_model(str(model), device, parse_dtype(options.dtype), SILENT)
        if not can_decode(loaded.model, 1024):
            raise SystemExit(f"{model} is continued by transformers' generate: there is nothing to compare")
        for task in (task for name in names for task in _tasks(name, loaded, options)):
            rows += _compare(task, options)
            print("\n".join(" | ".join(row) for row in rows[-len(options.batches) :]), flush=True)
    header = ["", "prompts", "tokens, at most", "generate, batch of", "taskarith, s", "generate, s", "ratio", "equal"]
    title = f"# Results of `python -m benchmarks.generation`, {datetime.date.today()}"
    text = "\n\n".join([title, bullets(facts), _ABOUT.format(rounds=options.rounds, draws=_DRAWS), table(header, rows)])
    options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--knows", help="a model that has learned the demo's manual")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--tokens", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32], help="of generate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent / "RESULTS-generation.md")
    return parser.parse_args()


def _tasks(name: str, loaded: Loaded, options: argparse.Namespace) -> list[Task]:
    most = max(options.prompts)
    if name == "questions":
        return [Task("questions after solved ones", loaded, _questions(loaded, most), 32)]
    if name == "chat":
        return [Task("a chat", loaded, _chats(loaded, most), 128)]
    if name == "draws":
        limit = max(options.tokens)
        return [Task(f"{_DRAWS} draws of a text", loaded, _windows(loaded, most // _DRAWS, limit), limit, _DRAWS)]
    title = "a text it knows" if name == "known" else "a text"
    return [
        Task(title, loaded, _windows(loaded, count, limit), limit)
        for count in options.prompts
        for limit in options.tokens
    ]


def _windows(loaded: Loaded, count: int, limit: int) -> list[Prompt]:
    (document,) = load_data(str(_text())).documents
    ids = loaded.tokenizer(document.text).input_ids
    starts = [number * (len(ids) - 64 - limit) // count for number in range(count)]
    return [
        Prompt(str(at), tuple(ids[at : at + 64]), "", loaded.tokenizer.decode(ids[at + 64 : at + 64 + limit]))
        for at in starts
    ]


def _text() -> Path:
    import taskarith.demo

    return Path(taskarith.demo.__file__).parent / "texts" / "manual.txt"


def _questions(loaded: Loaded, count: int) -> list[Prompt]:
    asked = [
        f"Question: {question.format(place)}\nAnswer: {answer.format(place[::-1].capitalize())}\n\n"
        for place in _PLACES
        for question, answer in _QUESTIONS
    ]
    before, open_ones = "".join(asked[:10]), [text.partition("Answer:")[0] + "Answer:" for text in asked[10:]]
    texts = [before + open_ones[number % len(open_ones)] for number in range(count)]
    return [
        Prompt(str(number), tuple(loaded.tokenizer(text).input_ids), "", "", ends=_ENDS)
        for number, text in enumerate(texts)
    ]


def _chats(loaded: Loaded, count: int) -> list[Prompt]:
    words = load_data(str(_text())).documents[0].text.split()
    topics = [" ".join(words[at : at + 3]) for at in range(0, 7 * count, 7)]
    tokenizer: Any = loaded.tokenizer
    return [
        Prompt(
            topic,
            tuple(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": f"In a few words: what is {topic}?"}],
                    add_generation_prompt=True,
                    return_dict=True,
                )["input_ids"]
            ),
            "",
            "",
        )
        for topic in topics
    ]


def _compare(task: Task, options: argparse.Namespace) -> list[list[str]]:
    """Return a row for each batch size of ``generate``."""
    texts: dict[str, list[str]] = {}
    runs: dict[str, Callable[[], list[str]]] = {"taskarith": lambda: _ours(task)}
    for batch in options.batches:
        if batch <= len(task.prompts) * max(1, task.draws):
            runs[str(batch)] = lambda batch=batch: _generate(task, batch)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            texts[name] = run()
            seconds[name] += [time.perf_counter() - start] if number else []
    ours = median(seconds.pop("taskarith"))
    return [
        [
            task.title,
            str(len(task.prompts) * max(1, task.draws)),
            str(task.limit),
            batch,
            f"{ours:.1f}",
            f"{median(times):.1f}",
            f"{median(times) / ours:.2f}",
            _equal(task, texts["taskarith"], texts[batch]),
        ]
        for batch, times in seconds.items()
    ]


def _equal(task: Task, first: list[str], second: list[str]) -> str:
    if task.draws:
        return "drawn"
    return f"{sum(a == b for a, b in zip(first, second, strict=True))} of {len(task.prompts)}"


def _ours(task: Task) -> list[str]:
    longest = max(len(prompt.input_ids) for prompt in task.prompts) + task.limit
    batching = Batching(batch_start(task.loaded.model, longest, cached=True), shrink=True)
    model, tokenizer, end_ids = task.loaded.model, task.loaded.tokenizer, task.loaded.end_ids
    how: dict[str, Any] = {"max_new_tokens": task.limit, "end_ids": end_ids}
    if task.draws:
        drawn = continue_sampled(model, tokenizer, task.prompts, batching, Sampling(task.draws, 0, 0), **how)
        return [text for texts in drawn for text in texts]
    return continue_greedily(model, tokenizer, task.prompts, batching, **how)


def _generate(task: Task, batch: int) -> list[str]:
    model: Any = task.loaded.model
    tokenizer, end_ids = task.loaded.tokenizer, sorted(task.loaded.end_ids)
    config = GenerationConfig(max_new_tokens=task.limit, eos_token_id=end_ids or None, pad_token_id=0, num_beams=1)
    if task.draws:
        config.update(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=task.draws)
        batch //= task.draws
    order = sorted(range(len(task.prompts)), key=lambda index: len(task.prompts[index].input_ids))
    texts = [""] * len(order)
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            ids, mask = pad([task.prompts[index].input_ids for index in chosen], model.device, left=True)
            outputs = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            outputs = outputs[:: max(1, task.draws)]  # whose texts are not compared
            for index, row in zip(chosen, outputs[:, ids.shape[1] :].tolist(), strict=True):
                made = row[: next((at for at, token in enumerate(row) if token in end_ids), len(row))]
                text = tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                ends = [at for end in task.prompts[index].ends if (at := text.find(end)) >= 0]
                texts[index] = text[: min(ends, default=len(text))]
    return texts


if __name__ == "__main__":
    main()
