"""Tensors that only one of two models has: why that is, and what to type."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.errors import MismatchError, name_some
from taskarith.vectors.renaming import Renaming, find_renaming
from taskarith.vectors.vocabulary import token_rows

__all__ = [
    "IGNORE_BUFFERS",
    "Alone",
    "check_whole",
    "explain_names",
    "heads_of_their_own",
    "ignored_remark",
    "one_sided",
]

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
        shapes = {name: entry.shape for name, entry in others.side.tensors.items()}
        found = explain_names(one.side, one.buffers, shapes, others.buffers)
        if found is not None:
            return found
    return None


def explain_names(
    side: Checkpoint, buffers: Container[str], others: Mapping[str, tuple[int, ...]], loose: Container[str]
) -> tuple[str, str] | None:
    """Say by what rule the names of a model differ from others, and how to rename its tensors; None if by none.

    :param side: The model.
    :param buffers: Tensors of it that need no counterpart.
    :param others: Shapes of what its tensors should correspond to, by name.
    :param loose: Those of them that need no counterpart.
    """
    names = [name for name in side.tensors if name not in buffers]
    alone = [name for name in others if name not in side.tensors and name not in loose]
    rows = token_rows(side)

    def fits(renaming: Renaming) -> bool:
        new = {renaming(name): side.tensors[name].shape for name in names}
        lost = [shape for name, shape in new.items() if name not in others]
        lost += [shape for name, shape in others.items() if name not in new and name not in loose]
        may_be_tied = all(shape and shape[0] in rows for shape in lost)  # with a row for each token: seen afterwards
        return may_be_tied and len(new) == len(names) and any(renaming(name) in others for name in odd)

    odd = [name for name in names if name not in others]
    found = find_renaming(odd, alone, [name for name in side.tensors if name in others], fits)
    if found is None:
        return None
    command, folder = _rewrite(side, "renamed", f"t = {{{found.code}: v for k, v in t.items()}}")
    return (
        f"the names of {side.path} {found.remark}",
        f"Rename them, which makes the folder {folder}: {command}",
    )


def check_whole(parts: Checkpoint, whole: Mapping[str, tuple[int, ...]], owner: str) -> None:
    """Refuse tensors that hold nothing, or a part of what they should, in one dimension.

    :param parts: The model that may have such tensors.
    :param whole: Their shapes as they should be.
    :param owner: What has these shapes.
    :raises MismatchError: There are some.
    """
    sides = [(entry, whole[name]) for name, entry in parts.tensors.items() if name in whole]
    found = [
        f"{part.name} {list(part.shape)} for {list(shape)}"
        for part, shape in sides
        if part.elements < math.prod(shape) and (not part.elements or len(part.shape) == 1 < len(shape))
    ]
    if found:
        raise MismatchError(
            f"{len(found)} tensors of {parts.path} are empty, or a flat part of what {owner} has: {name_some(found)}",
            "DeepSpeed ZeRO-3 and FSDP leave these where parameters are spread over processes: gather them (python "
            "zero_to_fp32.py CHECKPOINT DIR, or FSDP's full state dict), and save the model again.",
        )


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
