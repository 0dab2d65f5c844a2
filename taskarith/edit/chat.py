"""What a chat model needs beside its weights: a chat template, taken from another model; and notes of what lacks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from taskarith.checkpoints.checkpoint import read_json
from taskarith.checkpoints.resolve import resolve_model
from taskarith.checkpoints.sidecars import check_sidecars
from taskarith.edit.operands import Operand
from taskarith.errors import CheckpointError, UsageError, name_some
from taskarith.progress import SILENT, Listener
from taskarith.untrusted import MalformedError, read_text

__all__ = ["chat_notes", "chat_template_of", "read_chat_template", "write_chat_template"]

_FILE = "chat_template.jinja"
_TOKENIZER = "tokenizer_config.json"
_VOCABULARY = "tokenizer.json"
_HEAD = 1 << 21
"""Bytes of a tokenizer's file in which its added tokens stand."""


def read_chat_template(source: str, listener: Listener = SILENT) -> str:
    """Return the chat template that is named.

    :param source: A ``.jinja`` file, or a model or adapter folder or hub id that has one; or the template itself.
    :raises UsageError: There is none.
    :raises CheckpointError: There is no such model, or the file is not text.
    """
    if "{%" in source or "{{" in source:
        return source
    path = Path(source)
    if path.is_file():
        return _read(path)
    folder = path if path.is_dir() else resolve_model(source, listener).path
    check_sidecars(folder, [name for name in (_FILE, _TOKENIZER, "chat_template.json") if (folder / name).is_file()])
    found = chat_template_of(folder)
    if not found:
        raise UsageError(
            f"{source} does not have a chat template", f"Name a model that has one, or a file: --chat-template {_FILE}"
        )
    return found


def chat_template_of(folder: Path) -> str:
    """Return the chat template of a folder; empty if it has none, the default one if it has several."""
    if (folder / _FILE).is_file():
        return _read(folder / _FILE)
    for name in (_TOKENIZER, "chat_template.json"):
        if (folder / name).is_file():
            found = read_json(folder / name).get("chat_template")
            if isinstance(found, list):
                named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
                found = named.get("default")
            if isinstance(found, str) and found:
                return found
    return ""


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except MalformedError as error:
        hint = "Name a template in UTF-8 with --chat-template, or remove this file."
        raise CheckpointError(f"cannot read the chat template {path}: {error}", hint) from error


def write_chat_template(folder: Path, template: str) -> None:
    """Give a model folder a chat template in the place of any that it has."""
    (folder / _FILE).write_text(template, encoding="utf-8")
    (folder / "chat_template.json").unlink(missing_ok=True)
    path = folder / _TOKENIZER
    if path.is_file() and "chat_template" in (config := read_json(path)):
        del config["chat_template"]
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def chat_notes(base: Path, operands: Sequence[Operand], template: str, tokenizer: Path | None = None) -> list[str]:
    """Say what the chat models among the operands have that the output will not have.

    :param base: The model that is edited, whose tokenizer and other files travel along.
    :param operands: The vectors.
    :param template: The chat template that the output gets; empty if that of the base stays.
    :param tokenizer: The folder whose tokenizer the output gets, with its template; None if that of the base stays.
    """
    notes, kept = [], tokenizer or base
    template = template or (chat_template_of(tokenizer) if tokenizer else "")
    for folder in dict.fromkeys(_folders(operands)):
        own = chat_template_of(folder)
        if own and not template and own != chat_template_of(base):
            notes.append(
                f"{folder} has a chat template that the output does not have; to take it: --chat-template {folder}"
            )
        if more := _new_tokens(folder, kept):
            notes.append(
                f"{folder} has {len(more)} tokens that the tokenizer of {kept} does not have, and with it the output: "
                f"{name_some(more)}; --vocab union takes them, with their rows"
            )
    return notes


def _folders(operands: Iterable[Operand]) -> list[Path]:
    """Return the folders of the models that are added; what is taken away brings nothing."""
    paths = (Path(one.vector.name) for one in operands if not one.role and one.coefficient > 0)
    return [path for path in paths if path.is_dir()]


def _new_tokens(folder: Path, base: Path) -> list[str]:
    """Return the added tokens of a folder's tokenizer that the base's does not have at all."""
    added = [token for token in _added_tokens(folder) if token not in _added_tokens(base)]
    path = base / _VOCABULARY
    known = path.read_bytes().decode(errors="replace") if added and path.is_file() else ""
    return [token for token in added if json.dumps(token, ensure_ascii=False) not in known]


def _added_tokens(folder: Path) -> list[str]:
    """Return what a tokenizer lists before its vocabulary, which is long and not read."""
    path = folder / _VOCABULARY
    if not path.is_file():
        return []
    with path.open("rb") as file:
        text = file.read(_HEAD).decode(errors="replace")
    start = text.find('"added_tokens"')
    try:
        found, _ = json.JSONDecoder().raw_decode(text, text.index("[", start)) if start >= 0 else ([], 0)
    except (ValueError, RecursionError):
        return []
    return [str(one["content"]) for one in found if isinstance(one, dict) and "content" in one]
