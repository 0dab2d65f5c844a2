"""The tokenizer of another model for an edited one: its files, and that its tokens have rows and mean the same."""

from __future__ import annotations

from pathlib import Path

from taskarith.checkpoints.checkpoint import read_json
from taskarith.checkpoints.resolve import resolve_model
from taskarith.checkpoints.sidecars import check_sidecars, copy_sidecars
from taskarith.edit.enlarging import Enlarged
from taskarith.errors import CheckpointError, MismatchError, UsageError
from taskarith.progress import SILENT, Listener
from taskarith.untrusted import is_count
from taskarith.vectors.vocabulary import token_rows

__all__ = ["choose_tokenizer", "write_tokenizer"]

_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "tiktoken.model",
)  # fmt: skip
_VOCABULARY = "tokenizer.json"


def choose_tokenizer(named: str, model: Enlarged, listener: Listener = SILENT) -> Path | None:
    """Return the folder whose tokenizer the output gets; None if it keeps that of the model.

    :param named: What the user asks for; empty takes that of the folder that brought new tokens.
    :param model: The model that is edited, with all its rows.
    :raises UsageError: There is no tokenizer.
    :raises MismatchError: A token does not have a row, or means another one in the model.
    """
    if named:
        folder = resolve_model(named, listener).path
    elif model.source and _has_tokenizer(Path(model.source)):
        folder = Path(model.source)
    else:
        return None
    if not _has_tokenizer(folder):
        raise UsageError(f"{folder} does not have a tokenizer", "Name a model folder that has one: --tokenizer FROM")
    check_sidecars(folder, _own_files(folder))
    _check(folder, model.base.path, max(token_rows(model.base)))
    return folder


def _own_files(folder: Path) -> list[str]:
    return [name for name in _FILES if (folder / name).is_file()]


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES if not name.startswith("chat_template"))


def _check(source: Path, base: Path, rows: int) -> None:
    """See that each token has a row, and that those of the model are where they were."""
    new, old = _tokens(source), _tokens(base)
    if new and max(new) >= rows:
        raise MismatchError(
            f"the tokenizer of {source} has tokens up to {max(new)}, and the output has {rows} rows",
            "Give the output the rows of these tokens: --vocab union, with a vector that has them.",
        )
    odd = [number for number, token in old.items() if new and new.get(number) != token]
    if odd:
        number = min(odd)
        raise MismatchError(
            f"{len(odd)} tokens of {base} are others in the tokenizer of {source}, such as {number}: "
            f"{old[number]!r} and {new.get(number)!r}",
            "Use a tokenizer that has the tokens of the model where they are.",
        )


def write_tokenizer(folder: Path, source: Path) -> None:
    """Replace the tokenizer of a model folder, with its chat template."""
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    copy_sidecars(source, _own_files(source), folder)


def _tokens(folder: Path) -> dict[int, str]:
    """Return the tokens by number; none where they are not in ``tokenizer.json``."""
    path = folder / _VOCABULARY
    content = read_json(path) if path.is_file() else {}
    model = content.get("model")
    table, added = model.get("vocab") if isinstance(model, dict) else None, content.get("added_tokens") or []
    found: dict[int, str] = {}
    try:
        if isinstance(table, dict):
            found = {number: token for token, number in table.items()}
        elif isinstance(table, list):  # Unigram: pairs of token and score, in order
            found = {number: str(one[0]) for number, one in enumerate(table) if one}
        found |= {one["id"]: one["content"] for one in added if isinstance(one, dict) and "id" in one}
    except (TypeError, KeyError, IndexError):
        found = {-1: ""}
    if not all(map(is_count, found)):
        raise CheckpointError(f"{path} does not number its tokens", "Save or download the tokenizer again.")
    return found
