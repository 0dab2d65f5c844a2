"""What a record says, in plain English: the body of a card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from taskarith.cards.command import public_command
from taskarith.cards.markdown import code, code_block
from taskarith.cards.names import public_name

__all__ = ["NOT_MEASURED", "describe"]

NOT_MEASURED = (
    "No evaluation belongs to this card: nothing here says what the model has forgotten, learned or kept, or how well "
    "it works."
)
"""Stands where measured numbers are put."""

_TITLES = {"edit": "Edited model", "full": "Fine-tuned model", "lora": "LoRA adapter", "lowrank": "Low-rank adapter"}
_TITLES |= {"combination": "Combined adapter", "vector": "Task vector"}
_VECTOR = (
    "A task vector is the difference between the weights of a fine-tuned model and those of its base. Adding it "
    "to a model is meant to teach what the fine-tune learned, subtracting it to make the model forget that."
)


def describe(record: Mapping[str, Any], licence: Mapping[str, str], command: str) -> str:
    """Return the body of a card.

    :param record: What is recorded of the output.
    :param licence: Of the base, as its card names it.
    :param command: That made the output.
    """
    kind = str(record["kind"])
    made = {"edit": _edit, "lowrank": _low_rank, "combination": _combination, "vector": _vector_file}.get(kind, _tuned)
    parts = [
        f"# {_TITLES.get(kind, 'Model')}",
        *made(record),
        "## How to repeat it",
        *_repeat(record, command),
        "## What was and was not proved",
        *_proofs(record),
        NOT_MEASURED,
        "## Licence",
        _licence(licence),
    ]
    return "\n\n".join(parts) + "\n"


def _edit(record: Mapping[str, Any]) -> Iterator[str]:
    operands = [one for one in record["operands"] if not one.get("role")]
    method, alpha = dict(record.get("method") or {"name": "linear"}), float(record["alpha"])
    name = str(method.pop("name"))
    what = "a task vector" if len(operands) == 1 else f"{len(operands)} task vectors"
    yield f"This model is {_named(record['base'])}, edited by task arithmetic with {what}. {_VECTOR}"
    yield "## What was added and taken away"
    yield _listed([*map(_operand, operands), *(_other(one) for one in record["operands"] if one.get("role"))])
    given = ", ".join(f"{code(str(key))} {code(str(value))}" for key, value in method.items() if value is not None)
    how = "" if name == "linear" else f", merged by the method {code(name)}{f' ({given})' if given else ''}"
    times = "" if alpha == 1 else f" times {code(repr(alpha))}"
    yield f"The weights are those of the base plus this sum{times}{how}, calculated in float64 and rounded once."
    if scale := record.get("scale"):
        yield f"In some tensors the sum is scaled: {_scales(scale)}."
    yield f"The weights that came out have the fingerprint {code(str(record['fingerprint']))}."


def _operand(one: Mapping[str, Any]) -> str:
    coefficient = float(one["coefficient"])
    verb = "subtracted" if coefficient < 0 else "added"
    scale = f"; in some tensors {_scales(one['scale'])}" if one.get("scale") else ""
    base = one.get("base")
    origin = f", made from {code(public_name(base))}" if isinstance(base, Mapping) else ""
    fingerprint = f", fingerprint {code(str(one['fingerprint']))}" if one.get("fingerprint") else ""
    kind = {"finetuned": "difference of a fine-tuned model to its base", "lora": "LoRA adapter"}.get(
        str(one["kind"]), f"{one['kind']} task vector"
    )
    return (
        f"{verb}, {code(repr(abs(coefficient)))} times: {code(public_name(one))} ({kind}{fingerprint}{origin}){scale}"
    )


def _other(one: Mapping[str, Any]) -> str:
    what = "to be protected from the change" if one["role"] == "protect" else "as weights of the parameters"
    return f"read, {what}: {_named(one)}"


def _tuned(record: Mapping[str, Any]) -> Iterator[str]:
    base = _named(record["base"])
    if record["kind"] == "lora":
        yield f"This is a LoRA adapter that was trained on {base}."
    else:
        yield f"This is {base} after further training of all its weights."
    yield "## What was learned"
    arguments = record.get("arguments") or {}
    if objective := arguments.get("objective"):
        yield f"The objective was {code(str(objective))}: to forget the data, not to learn it."
    for key, role in (("data", "Trained on"), ("retain", "To be kept")):
        texts = [one for one in record.get(key) or () if isinstance(one, Mapping)]
        if texts:
            yield f"{role}:"
            yield _listed([_data(one) for one in texts])
    chosen = ("learning_rate", "num_train_epochs", "max_steps", "block_size", "lora_rank", "lora_alpha", "seed")
    found = [f"{code(key)} {code(str(arguments[key]))}" for key in chosen if arguments.get(key) is not None]
    if found:
        yield f"Settings: {', '.join(found)}; all others are in `taskarith.json`."


def _data(one: Mapping[str, Any]) -> str:
    spec = str(one.get("spec", ""))
    name = public_name({"name": spec.rpartition("=")[2]})
    counts = ", ".join(f"{one[key]:,} {key}" for key in ("documents", "samples", "tokens") if type(one.get(key)) is int)
    return f"{code(name)} ({counts}; fingerprint {code(str(one.get('fingerprint', '')))})"


def _low_rank(record: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"This adapter approximates the difference between the fine-tuned model {_named(record['finetuned'])} and its "
        f"base {_named(record['base'])}. It keeps {float(record['energy']):.2%} of the sum of squares of that."
    )
    yield _VECTOR


def _combination(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"This adapter is a sum of adapters of {_named(record['base'])}, each with a coefficient. {_VECTOR}"
    yield "## What was added and taken away"
    yield _listed([_operand({**one, "base": None}) for one in record["operands"]])
    if float(record["energy"]) < 1:
        yield f"Its rank was limited: it keeps {float(record['energy']):.2%} of the sum of squares."


def _vector_file(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"This file is a task vector of {_named(record['base'])}. {_VECTOR}"
    yield "## What it holds"
    finetuned = record.get("finetuned") or {}
    combined = finetuned.get("combination")
    if isinstance(combined, list):
        yield "A sum of task vectors, each with a coefficient:"
        yield _listed([_operand({**one, "base": None}) for one in combined])
    else:
        yield f"The difference to {_named(finetuned)}, stored as kind {code(str(record['form']))}."
    yield "## How to use it"
    yield code_block(f"taskarith apply --negate {record['at']} -o edited")


def _repeat(record: Mapping[str, Any], command: str) -> Iterator[str]:
    if short := public_command(command):
        yield code_block(short)
    else:
        yield "It was made by a call from Python."
    version = (record.get("versions") or {}).get("taskarith")
    own = " The header of the file" if record["kind"] == "vector" else " `taskarith.json`"
    again = ", and `taskarith apply --config taskarith.json -o again` repeats the edit" * (record["kind"] == "edit")
    yield (
        f"Paths are left out.{f' The version was taskarith {code(str(version))}.' if version else ''}{own} records all "
        f"inputs with their fingerprints{again}."
    )


def _proofs(record: Mapping[str, Any]) -> Iterator[str]:
    checked = "what every file is" if record["kind"] != "vector" else "what every tensor is"
    sample = {"edit": " and, where the inputs are at hand, that the weights are what they give"}
    sample["vector"] = sample["edit"]
    yield (
        f"`taskarith verify` checks {checked}{sample.get(record['kind'], '')}. That proves how it was made, and "
        "nothing about how it behaves."
    )
    if record["kind"] == "edit" and any(float(one["coefficient"]) < 0 for one in record["operands"]):
        yield (
            "A text that a model no longer says need not be gone from it: further training or quantisation can bring "
            "it back, and whoever has the vector that was subtracted can add it again."
        )


def _licence(licence: Mapping[str, str]) -> str:
    if not licence:
        return "The card of the base names no licence that could be read: ask its authors before you share this."
    name = licence.get("license_name", licence["license"])
    return f"The card of the base names the licence {code(name)}, which this follows."


def _scales(scale: Mapping[str, Any]) -> str:
    return ", ".join(f"{code(str(name))} times {code(str(factor))}" for name, factor in scale.items())


def _named(record: Mapping[str, Any]) -> str:
    name = code(public_name(record))
    fingerprint = record.get("fingerprint")
    return f"{name} (fingerprint {code(str(fingerprint))})" if fingerprint else name


def _listed(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
