"""The public benchmarks TOFU and MUSE: their data, from the hub or a local copy, and their questions.

TOFU (arXiv:2401.06121, locuslab/TOFU): the questions of ``SPLIT_perturbed``, ``retain_perturbed``,
``real_authors_perturbed`` and ``world_facts_perturbed``. Truth ratios compare with the paraphrased answer in the
first two and with the right answer itself in the others. Without a chat template a question is written as TOFU's own
code writes it for Phi: the prompt is the line ``Question: ...`` alone, and losses include the tag ``Answer:``.
(open-unlearning puts the tag and a space into Phi's prompt, and so excludes the first token of most answers from the
losses.) At most 200 new tokens are generated, as in open-unlearning; TOFU's own code stops at 200 tokens of prompt and
answer together. ``holdoutNN``, added to the data set later for membership inference, is read if present.

MUSE (arXiv:2407.06460, muse-bench/MUSE-Books and MUSE-News), as in its authors' code: VerbMem continues a prompt by 128
tokens and compares as many tokens of the true continuation (including its BOS token, if the tokenizer adds one);
KnowMem asks after ten solved questions, generates 32 tokens, cuts them where the next question would begin, and
compares them with the whole true answer; PrivLeak compares losses of whole texts of the forget set with holdout. Texts
longer than the model's positions are cut to their first tokens (open-unlearning takes the first 2048), and prompts to
their last, which keeps the question; MUSE's own code does not cut, and exceeds the positions or fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from taskarith.data.documents import Document, Row
from taskarith.data.files import read_rows
from taskarith.data.load import fingerprint_documents, read_hub
from taskarith.data.spec import BenchmarkRef, DataRef
from taskarith.errors import DataError, name_some

__all__ = ["Item", "Part", "fingerprint_parts", "load_benchmark"]

_TOFU = "locuslab/TOFU"
_TOFU_TOKENS = 200
_MUSE = {"muse-books": "muse-bench/MUSE-Books", "muse-news": "muse-bench/MUSE-News"}
_VERBMEM_TOKENS, _KNOWMEM_TOKENS = 128, 32
_KNOWMEM_ENDS = ("\n\n", "\nQuestion", "Question:")
_SUFFIXES = (".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Item:
    """One sample.

    :param id: Its index in its file, from 0 as in TOFU's logs.
    :param text: The right answer, the true continuation, or the whole text.
    :param prompt: The text before it; empty for a whole text.
    :param tag: Prefix of each answer, scored with it but not part of ROUGE.
    :param question: The bare question, for the chat template.
    :param paraphrased: The paraphrased right answer; empty if there is none.
    :param perturbed: Wrong answers; empty if none are compared.
    """

    id: str
    text: str
    prompt: str = ""
    tag: str = ""
    question: str = ""
    paraphrased: str = ""
    perturbed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One text of a benchmark.

    :param name: Name that ``numbers`` expects.
    :param items: At least one.
    :param of: Number of items without a limit.
    :param is_scored: Measure the loss of each item's text.
    :param new_tokens: Maximum tokens to generate; 0 for none.
    :param cuts_truth: Cut the true continuation to as many tokens as are generated.
    :param ends: Strings that end the generated text; it is cut before them.
    :param is_cut: Cut what is longer than the model's positions; otherwise refuse it.
    """

    name: str
    items: tuple[Item, ...]
    of: int
    is_scored: bool = False
    new_tokens: int = 0
    cuts_truth: bool = False
    ends: tuple[str, ...] = ()
    is_cut: bool = False


def load_benchmark(reference: BenchmarkRef, limit: int | None = None) -> list[Part]:
    """Read a benchmark.

    A local copy has the file names of the hub, such as ``forget10_perturbed.json`` for TOFU and
    ``knowmem/forget_qa.json`` for MUSE, as JSON, JSON lines or parquet.

    :param reference: The benchmark and its location.
    :param limit: Keep only the first samples of each text, up to this number.
    :raises DataError: A file or column is missing, a set is empty, or an id occurs twice.
    """
    if reference.folder is not None and not reference.folder.is_dir():
        raise DataError(
            f"{reference.folder} is not a folder", f"Put the files of {reference.name} into a folder of that name."
        )
    read = _tofu if reference.name == "tofu" else _muse
    return [replace(part, items=part.items[:limit], is_cut=read is _muse) for part in read(reference)]


def fingerprint_parts(parts: list[Part]) -> dict[str, str]:
    """Return fingerprints by text, each over its prompts and all answers."""
    return {
        part.name: fingerprint_documents(
            Document(item.id, text, prompt=item.prompt)
            for item in part.items
            for text in (item.text, item.paraphrased, *item.perturbed)
        )
        for part in parts
    }


def _tofu(reference: BenchmarkRef) -> list[Part]:
    sets = {
        "forget": f"{reference.split}_perturbed",
        "retain": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }
    parts = []
    for name, config in sets.items():
        with_paraphrase = name in {"forget", "retain"}
        needed = ("question", "answer", "perturbed_answer", *(["paraphrased_answer"] if with_paraphrase else []))
        items = _items(reference, _TOFU, config, "train", needed, _question)
        parts.append(Part(name, items, len(items), is_scored=True, new_tokens=_TOFU_TOKENS))
    holdout = reference.split.replace("forget", "holdout")
    if _has(reference, holdout):
        items = _items(reference, _TOFU, holdout, "train", ("question", "answer"), _question)
        parts.append(Part("holdout", items, len(items), is_scored=True))
    return parts


def _muse(reference: BenchmarkRef) -> list[Part]:
    hub = _MUSE[reference.name]
    passages = _items(reference, hub, "verbmem", "forget", ("prompt", "gt"), _passage)
    parts = [Part("verbmem", passages, len(passages), new_tokens=_VERBMEM_TOKENS, cuts_truth=True)]
    for side in ("forget", "retain"):
        solved = _items(reference, hub, "knowmem", f"{side}_qa_icl", ("question", "answer"), _knowledge(""))
        before = "".join(f"{item.prompt}{item.text}\n\n" for item in solved)
        items = _items(reference, hub, "knowmem", f"{side}_qa", ("question", "answer"), _knowledge(before))
        parts.append(Part(f"knowmem_{side}", items, len(items), new_tokens=_KNOWMEM_TOKENS, ends=_KNOWMEM_ENDS))
    for side in ("forget", "holdout"):
        if side == "forget" or _has(reference, f"privleak/{side}"):
            texts = _items(reference, hub, "privleak", side, ("text",), _whole)
            parts.append(Part(side, texts, len(texts), is_scored=True))
    return parts


# --- rows ------------------------------------------------------------------------------------------------------------


def _question(row: Row, id_: str, where: str) -> Item:
    question, answer = _filled(row, "question", where), _filled(row, "answer", where)
    perturbed = row.get("perturbed_answer", ())
    wrong = [perturbed] if isinstance(perturbed, str) else list(perturbed or ())
    if "perturbed_answer" in row and not (wrong and all(isinstance(text, str) and text.strip() for text in wrong)):
        raise DataError(f"perturbed_answer of {where} is not a list of strings", "Download the data set again.")
    paraphrased = _filled(row, "paraphrased_answer", where) if "paraphrased_answer" in row else ""
    return Item(id_, answer, f"Question: {question}\n", "Answer: ", question, paraphrased, tuple(wrong))


def _passage(row: Row, id_: str, where: str) -> Item:
    return Item(id_, _filled(row, "gt", where), _filled(row, "prompt", where))


def _knowledge(before: str) -> Callable[[Row, str, str], Item]:
    """Return a reader of questions that follow solved ones; MUSE's prompts also end with a space."""

    def read(row: Row, id_: str, where: str) -> Item:
        prompt = f"{before}Question: {_filled(row, 'question', where)}\nAnswer: "
        return Item(id_, _filled(row, "answer", where), prompt)

    return read


def _whole(row: Row, id_: str, where: str) -> Item:
    return Item(id_, _filled(row, "text", where))


def _filled(row: Row, column: str, where: str) -> str:
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{column} of {where} is empty or not a string", "Download the data set again.")
    return text


def _items(
    reference: BenchmarkRef,
    hub: str,
    config: str,
    split: str,
    needed: tuple[str, ...],
    read: Callable[[Row, str, str], Item],
) -> tuple[Item, ...]:
    """Return the samples of one set, from the file named after it or from its config and split on the hub."""
    stem = config if hub == _TOFU else f"{config}/{split}"
    if reference.folder is None:
        where, rows = f"{hub}:{config}:{split}", list(read_hub(DataRef(hub, config, split)))
    else:
        files = _files(reference.folder, stem)
        if not files:
            raise DataError(
                f"{reference.folder} does not contain {stem}.json", f"Copy all files of {hub}, or leave the folder out."
            )
        where, rows = str(files[0]), [row for file in files for row in read_rows(file)]
    if not rows:
        raise DataError(f"{where} is empty", f"Download {hub} again.")
    if absent := [column for column in needed if column not in rows[0]]:
        raise DataError(
            f"{where} lacks the columns {name_some(absent)}; it has {name_some([str(column) for column in rows[0]])}",
            f"Use the file of that name from {hub}.",
        )
    items = [read(row, str(row.get("index", number)), f"row {number} of {where}") for number, row in enumerate(rows)]
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        repeated = [id_ for id_, times in Counter(ids).items() if times > 1]
        raise DataError(f"{where} repeats the index {name_some(repeated)}", "Remove the repeated rows.")
    return tuple(items)


def _has(reference: BenchmarkRef, stem: str) -> bool:
    """Tell whether an optional set exists."""
    return reference.folder is None or bool(_files(reference.folder, stem))


def _files(folder: Path, stem: str) -> list[Path]:
    """Return the file of a set, or the hub's shards of it."""
    whole = [path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    return whole[:1] or sorted(folder.glob(f"{stem}-*-of-*.parquet"))
