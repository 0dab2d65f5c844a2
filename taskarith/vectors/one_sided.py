"""Tensors that only one of two models has: why that is, and what to type."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, name_some
from taskarith.vectors.renaming import Renaming, find_renaming
from taskarith.vectors.vocabulary import token_rows

__all__ = ["IGNORE_BUFFERS", "Alone", "heads_of_their_own", "ignored_remark", "one_sided"]

IGNORE_BUFFERS = "--ignore-buffers"

_NOTHING_LOST = "Nothing is left out silently: save both with the same transformers class and version."


@dataclass(frozen=True)
class Alone:
    """What one side has and the other has not.

    :param side: The checkpoint that has it.
    :param other: The one that has not.
    :param names: Tensors, in the order of ``side``, buffers apart.
    :param buffers: Buffers likewise.
    :param is_lenient: Buffers do not matter.
    """

    side: Checkpoint
    other: Checkpoint
    names: tuple[str, ...]
    buffers: tuple[str, ...]
    is_lenient: bool

    @property
    def wrong(self) -> list[str]:
        """What has to have a counterpart, in the order of ``side``."""
        found = {*self.names, *(() if self.is_lenient else self.buffers)}
        return [name for name in self.side.tensors if name in found]


def ignored_remark(names: Sequence[str], where: str = "one side") -> list[str]:
    """Say which buffers were left out; nothing if none were.

    :param names: The buffers.
    :param where: What alone has them.
    """
    return [f"left out {len(names)} buffers that only {where} has: {name_some(names)}"] if names else []


def one_sided(base: Alone, finetuned: Alone, reader: TensorReader) -> MismatchError:
    """Return the error that says which tensors have no counterpart, and why.

    :param base: What only the base has.
    :param finetuned: What only the fine-tune has; one of the two has something.
    :param reader: Reads tensors that may be copies.
    """
    counts = [
        f"{len(one.wrong)} tensors of {one.side.path} are not in {one.other.path}: {name_some(one.wrong)}"
        for one in (base, finetuned)
        if one.wrong
    ]
    reasons = (_unmerged, _buffers_only, _renamed, _untied)
    reason, hint = next((found for why in reasons if (found := why(base, finetuned, reader))), ("", _NOTHING_LOST))
    if (base.names or finetuned.names) and any(one.buffers and not one.is_lenient for one in (base, finetuned)):
        hint += f" {IGNORE_BUFFERS} leaves out the buffers among them."
    return MismatchError("; ".join([*counts, *([reason] if reason else [])]), hint)


def _unmerged(base: Alone, finetuned: Alone, reader: TensorReader) -> tuple[str, str] | None:
    del reader
    for one in (base, finetuned):
        if any(".lora_A." in name or ".base_layer." in name for name in one.names):
            return (
                f"{one.side.path} holds an adapter that is not merged into its weights",
                "Merge it before saving: model.merge_and_unload().save_pretrained(DIR)",
            )
    return None


def _buffers_only(base: Alone, finetuned: Alone, reader: TensorReader) -> tuple[str, str] | None:
    del reader
    if base.names or finetuned.names:
        return None
    return (
        "all of them are buffers, which are calculated and not trained",
        f"{IGNORE_BUFFERS}, an option of extract and apply, leaves them out and names them.",
    )


def _renamed(base: Alone, finetuned: Alone, reader: TensorReader) -> tuple[str, str] | None:
    del reader
    for one, others in ((finetuned, base), (base, finetuned)):
        common = [name for name in one.side.tensors if name in others.side.tensors]
        found = find_renaming(one.names, others.names, common, _fits(one, others))
        if found is not None:
            tensors = f"{{{found.code}: v for k, v in t.items()}}"
            command, folder = _rewrite(one.side, "renamed", f"t = {tensors}")
            return (
                f"the names of {one.side.path} {found.remark}",
                f"Rename them, which makes the folder {folder}: {command}",
            )
    return None


def _fits(one: Alone, others: Alone) -> Callable[[Renaming], bool]:
    """Tell whether a renaming makes names correspond, but for tensors with a row per token, which may be tied."""
    rows = token_rows(one.side) | token_rows(others.side)

    def is_odd(entry: TensorEntry) -> bool:
        return not entry.shape or entry.shape[0] not in rows

    def fits(renaming: Renaming) -> bool:
        kept = [name for name in one.side.tensors if name not in one.buffers]
        new = {renaming(name): name for name in kept}
        lost = [name for to, name in new.items() if to not in others.side.tensors]
        unmet = [name for name in others.side.tensors if name not in new and name not in others.buffers]
        is_whole = not any(is_odd(one.side.tensors[name]) for name in lost)
        is_whole = is_whole and not any(is_odd(others.side.tensors[name]) for name in unmet)
        return is_whole and len(new) == len(kept) and len(lost) < len(one.names)

    return fits


def _untied(base: Alone, finetuned: Alone, reader: TensorReader) -> tuple[str, str] | None:
    """Explain a head that one side stores beside its embedding, where the other has one tensor for both."""
    if bool(base.names) == bool(finetuned.names):
        return None
    one = base if base.names else finetuned
    heads = heads_of_their_own(one.side, one.names, one.other.tensors, reader)
    if not heads:
        return None
    tied, names, embeddings = one.other, ", ".join(heads), ", ".join(dict.fromkeys(heads.values()))
    if _says_untied(tied):
        return (
            f"{tied.path} is not tied, as its config.json says, and has lost it",
            f"Save or download {tied.path} again, with {names}.",
        )
    copies = ", ".join(f"{json.dumps(name)}: t[{json.dumps(to)}].clone()" for name, to in heads.items())
    says = (
        'c = json.loads((a / "config.json").read_text()); '
        'c.get("text_config", {})["tie_word_embeddings"] = c["tie_word_embeddings"] = False; '
        '(b / "config.json").write_text(json.dumps(c, indent=2))'
    )
    command, folder = _rewrite(tied, "untied", f"t = t | {{{copies}}}", says)
    return (
        f"it is not a copy of {embeddings} there: {one.side.path} is untied, and {tied.path} is tied",
        f"Untie {tied.path}, which makes the folder {folder}, and use that: {command}",
    )


def heads_of_their_own(
    side: Checkpoint, names: Sequence[str], common: Container[str], reader: TensorReader
) -> dict[str, str]:
    """Map tensors to the embedding that each would repeat if the model were tied; empty if one is anything else.

    :param side: The model that has them.
    :param names: The tensors.
    :param common: Names that the other side has, too.
    :param reader: Tells copies from others.
    """
    rows, heads = token_rows(side), {}
    for name in names:
        entry = side.tensors[name]
        like = [other for other in side.tensors.values() if other.name in common and other.shape == entry.shape]
        if not like or len(entry.shape) != 2 or entry.shape[0] not in rows or not entry.is_float:
            return {}
        if any(reader.fingerprint(other) == reader.fingerprint(entry) for other in like):
            return {}
        heads[name] = like[0].name
    return heads


def _says_untied(checkpoint: Checkpoint) -> bool:
    nested = checkpoint.config.get("text_config")
    return ((nested if isinstance(nested, dict) else {}) | checkpoint.config).get("tie_word_embeddings") is False


def _rewrite(side: Checkpoint, suffix: str, change: str, more: str = "") -> tuple[str, str]:
    """Return a command that writes a model anew, with other tensors ``t``, and the folder that it makes here.

    It is written without single quotes, so that a shell takes it in one pair of them.
    """
    folder = f"{Path(side.path).resolve().name}-{suffix}"
    pattern = "model*.safetensors" if all(shard.name.startswith("model") for shard in side.shards) else "*.safetensors"
    steps = [
        "import json, shutil",
        "from pathlib import Path",
        "from safetensors.torch import load_file, save_file",
        f"a, b = Path({json.dumps(str(side.path))}), Path({json.dumps(folder)})",
        'shutil.copytree(a, b, ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))',
        f'fs = sorted(a.glob("{pattern}"))',
        "t = {k: v for f in fs for k, v in load_file(f).items()}",
        change,
        'save_file(t, b / "model.safetensors", {"format": "pt"})',
    ]
    return f"python -c {shlex.quote('; '.join([*steps, *([more] if more else [])]))}", folder
