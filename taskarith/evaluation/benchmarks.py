"""Public benchmarks by name, TOFU and MUSE: their data, from the hub or a local copy, and what is asked about it.

TOFU (arXiv:2401.06121, locuslab/TOFU): the questions of ``SPLIT_perturbed``, ``retain_perturbed``,
``real_authors_perturbed`` and ``world_facts_perturbed``. Of the first two the paraphrased answer is the one that truth
ratios compare with, of the others the right answer itself. Without a chat template a question is put as TOFU's own code
puts it to Phi: the line ``Question: ...`` is all that a model is shown before it goes on, and the losses are of the tag
``Answer:``, too. (open-unlearning shows Phi the tag and a blank, and so leaves the first token of most answers out of
the losses.) 200 new tokens at most, as in open-unlearning; TOFU's own code stops when prompt and answer have 200
together. ``holdoutNN``, later added to the data set for membership inference, is read where it is there.

MUSE (arXiv:2407.06460, muse-bench/MUSE-Books and MUSE-News), as in its authors' code: VerbMem continues a prompt by 128
tokens, and the true continuation counts as far (its BOS token, if the tokenizer puts one, among them); KnowMem asks
after ten solved questions, takes 32 tokens, ends them where the next question would begin, and compares them with the
whole true answer; PrivLeak compares losses of whole texts that were to be forgotten with holdout. Of texts longer than
the model's positions the first tokens are taken, as open-unlearning takes the first 2048, and of such prompts the last,
so that the question stays; MUSE's own code cuts nothing, and runs past the positions or fails.
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

    :param id: Its number in its file, from 0 as in TOFU's logs.
    :param text: The right answer, the true continuation, or the whole text.
    :param prompt: What precedes it; empty for a whole text.
    :param tag: What stands before each answer and counts as a part of it, but for ROUGE.
    :param question: The bare question, where a chat template may be put around it.
    :param paraphrased: The right answer in other words; empty where there is none.
    :param perturbed: Wrong answers; none where nothing is compared.
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

    :param name: As ``families`` expects it.
    :param items: At least one.
    :param of: How many there are without a limit.
    :param is_scored: Take the loss of each item's text.
    :param new_tokens: Tokens to generate at most; 0 generates nothing.
    :param cuts_truth: Take of the true continuation no more tokens than are generated.
    :param ends: Strings before which what is generated ends.
    :param is_cut: Cut what is longer than the model's positions; otherwise it is refused.
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

    A local copy has the file names of the hub: ``forget10_perturbed.json`` and so on of TOFU, of MUSE
    ``knowmem/forget_qa.json`` and so on, as JSON, JSON lines or parquet.

    :param reference: Which one, and where.
    :param limit: Keep the first so many samples of each text.
    :raises DataError: A file or a column is missing, or a set is empty or has an id twice.
    """
    if reference.folder is not None and not reference.folder.is_dir():
        raise DataError(f"there is no folder {reference.folder}", f"Put the files of {reference.name} there.")
    read = _tofu if reference.name == "tofu" else _muse
    return [replace(part, items=part.items[:limit], is_cut=read is _muse) for part in read(reference)]


def fingerprint_parts(parts: list[Part]) -> dict[str, str]:
    """Return a fingerprint of each text with its prompts and all answers, by its name."""
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
        raise DataError(f"perturbed_answer of {where} is not a list of texts", "Download the data set again.")
    paraphrased = _filled(row, "paraphrased_answer", where) if "paraphrased_answer" in row else ""
    return Item(id_, answer, f"Question: {question}\n", "Answer: ", question, paraphrased, tuple(wrong))


def _passage(row: Row, id_: str, where: str) -> Item:
    return Item(id_, _filled(row, "gt", where), _filled(row, "prompt", where))


def _knowledge(before: str) -> Callable[[Row, str, str], Item]:
    """Return what reads a question that follows solved ones; the blank at its end is in MUSE's prompts too."""

    def read(row: Row, id_: str, where: str) -> Item:
        prompt = f"{before}Question: {_filled(row, 'question', where)}\nAnswer: "
        return Item(id_, _filled(row, "answer", where), prompt)

    return read


def _whole(row: Row, id_: str, where: str) -> Item:
    return Item(id_, _filled(row, "text", where))


def _filled(row: Row, column: str, where: str) -> str:
    text = row.get(column)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{column} of {where} is empty or no text", "Download the data set again.")
    return text


def _items(
    reference: BenchmarkRef,
    hub: str,
    config: str,
    split: str,
    needed: tuple[str, ...],
    read: Callable[[Row, str, str], Item],
) -> tuple[Item, ...]:
    """Return one set's samples: those of the file named after it, or of its config and split on the hub."""
    stem = config if hub == _TOFU else f"{config}/{split}"
    if reference.folder is None:
        where, rows = f"{hub}:{config}:{split}", list(read_hub(DataRef(hub, config, split)))
    else:
        files = _files(reference.folder, stem)
        if not files:
            raise DataError(
                f"{reference.folder} has no {stem}.json", f"Copy all files of {hub}, or leave the folder out."
            )
        where, rows = str(files[0]), [row for file in files for row in read_rows(file)]
    if not rows:
        raise DataError(f"{where} is empty", f"Download {hub} again.")
    if absent := [column for column in needed if column not in rows[0]]:
        raise DataError(
            f"{where} has no column {name_some(absent)}; it has {name_some([str(column) for column in rows[0]])}",
            f"Use the file of that name of {hub}.",
        )
    items = [read(row, str(row.get("index", number)), f"row {number} of {where}") for number, row in enumerate(rows)]
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = [id_ for id_, times in Counter(ids).items() if times > 1]
        raise DataError(f"{where} has an index twice: {name_some(twice)}", "Take the repeated rows out.")
    return tuple(items)


def _has(reference: BenchmarkRef, stem: str) -> bool:
    """Return whether there is a set that a local copy may lack."""
    return reference.folder is None or bool(_files(reference.folder, stem))


def _files(folder: Path, stem: str) -> list[Path]:
    """Return the file of a set, or the shards in which the hub keeps it."""
    whole = [path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
    return whole[:1] or sorted(folder.glob(f"{stem}-*-of-*.parquet"))
