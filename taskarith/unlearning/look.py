"""A look at what is given, before anything is done: what it is, what fits, what is missing for a proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskarith.checkpoints.checkpoint import fingerprint_model
from taskarith.checkpoints.resolve import resolve_model
from taskarith.data.load import DataSet, load_data
from taskarith.errors import DataError, MismatchError, UsageError
from taskarith.models.device import choose_device
from taskarith.models.load import Base, open_base
from taskarith.models.memory import available_memory
from taskarith.progress import SILENT, Listener
from taskarith.training.settings import TrainingSettings
from taskarith.unlearning.task import Learning, Task

__all__ = ["Sight", "check_call", "choose_learning", "fingerprints", "look", "missing", "needed_space"]

_BYTES_TRAINED = 16
"""Bytes that full training in float32 takes for each weight: the weight, its gradient, and AdamW's two moments."""
_ROOM = 0.8
"""Share of the memory that they may take; activations need some, too."""

_WIDTH = 576
"""Size of SmolLM2-135M's hidden states, on which the learning rates were measured."""
_RATES = {False: 3e-4, True: 5e-4}
"""Learning rates there, full and with LoRA. Adam's falls with the width (Yang et al. 2022, arXiv:2203.03466)."""
_LORA_ON_TOP = 6.0
"""An adapter that is learned by a model that knows the text already needs steps that much larger."""

_STEP = 32_000
"""Characters for each block of a step: about 32 blocks."""
_MOST_BLOCKS = 8


@dataclass(frozen=True)
class Sight:
    """What is given.

    :param base: The model to edit, without its weights.
    :param learner: The model that vectors are learned on, which may be the same.
    :param data: The texts by name.
    :param fingerprints: Of models and texts, by how the user named them.
    :param lines: What to say of them.
    """

    base: Base
    learner: Base
    data: Mapping[str, DataSet]
    fingerprints: Mapping[str, str]
    lines: tuple[str, ...]


def check_call(
    model: str, retain: Sequence[str], reference: str | None, base: str | None, keep: float, alphas: Sequence[float]
) -> None:
    """Refuse a call that contradicts itself.

    :raises UsageError: It does.
    """
    if not retain:
        raise UsageError(
            "there is no retain set", "Name a text whose knowledge is to be kept, as in --retain retain.txt"
        )
    if reference == model:
        raise UsageError("the reference is the model itself", "Give a model that never saw the text to forget.")
    if base == model:
        raise UsageError("the base is the model itself", "Leave out --base.")
    if not 0 <= keep <= 1:
        raise UsageError(f"--keep {keep:g} is out of range", "Give a number from 0 to 1.")
    if not any(alphas):
        raise UsageError("there is no alpha to try", "Give some, as in --alpha 0:2:0.25")


def look(task: Task, listener: Listener) -> Sight:
    """Open models and texts, without weights.

    :raises DataError: A text is missing, or the same as another.
    :raises CheckpointError: A model is missing or broken.
    :raises MismatchError: The vectors' model has other weights than the model to edit.
    """
    given = _texts(task)
    data = {name: load_data(spec, task.measurement.form) for name, spec in given.items()}
    for name, one in data.items():
        same = next((other for other in data if other != name and data[other].fingerprint == one.fingerprint), None)
        if same is not None:
            raise DataError(
                f"{same} ({given[same]}) and {name} ({given[name]}) are the same text", "Give different texts."
            )
    trusted = task.trust_remote_code
    bases = {
        name: open_base(name, trust_remote_code=trusted, listener=listener)
        for name in dict.fromkeys(filter(None, (task.model, task.base, task.reference)))
    }
    base, learner = bases[task.model], bases[task.base or task.model]
    shapes = [{name: one.shape for name, one in model.checkpoint.tensors.items()} for model in (base, learner)]
    if shapes[0] != shapes[1]:
        raise MismatchError(
            f"{task.base} and {task.model} do not have the same tensors", "Give the base that the model was made from."
        )
    fingerprints = {spec: data[name].fingerprint for name, spec in given.items()}
    fingerprints |= {name: one.fingerprint for name, one in bases.items()}
    return Sight(base, learner, data, fingerprints, _lines(task, base, data))


def fingerprints(task: Task) -> dict[str, str]:
    """Return the fingerprints of models and texts as they are now, by how the user named them.

    Of a model that has not changed since it was read nothing is read again.
    """
    found = {spec: load_data(spec, task.measurement.form).fingerprint for spec in _texts(task).values()}
    for name in filter(None, (task.model, task.base, task.reference)):
        found[name] = fingerprint_model(resolve_model(name, SILENT).path)
    return found


def _texts(task: Task) -> dict[str, str]:
    return {**task.data, **({"holdout": task.holdout} if task.holdout else {})}


def choose_learning(
    sight: Sight, *, lora: bool | None, learning_rate: float | None, num_train_epochs: float | None, device: str
) -> tuple[Learning, str]:
    """Return how texts are learned, and why so.

    :param sight: What is given.
    :param lora: Whether by an adapter; None for what the memory allows.
    :param learning_rate: None for one by the model's width.
    :param num_train_epochs: None for a loss of 0.5, or three passes by a model that knows the text.
    :param device: Where.
    """
    weights = _weights(sight.learner)
    room = available_memory(choose_device(device))
    needed = _BYTES_TRAINED * weights
    reason = "as asked"
    if lora is None:
        lora = room is not None and needed > _ROOM * room
        have = "memory that is not known" if room is None else f"{room / 1e9:.1f} GB of memory"
        reason = f"{needed / 1e9:.1f} GB for all weights {'do not fit' if lora else 'fit'} into {have}"
    is_on_top = sight.learner is sight.base
    rate = _RATES[lora] * (_LORA_ON_TOP if lora and is_on_top else 1.0) * _WIDTH / _width(sight.learner)
    epochs = 3.0 if is_on_top and num_train_epochs is None else num_train_epochs
    positions = sight.learner.positions
    characters = sum(len(document.text) for document in sight.data["forget"].documents)
    learning = Learning(
        lora=lora,
        learning_rate=float(f"{rate:.2g}") if learning_rate is None else learning_rate,
        num_train_epochs=epochs,
        until_loss=0.5 if epochs is None else None,
        batch_size=min(_MOST_BLOCKS, max(1, characters // _STEP)),
        block_size=positions if positions is not None and positions < TrainingSettings.block_size else None,
    )
    return learning, f"{'LoRA' if lora else 'full'} fine-tuning ({reason}), learning rate {learning.learning_rate:g}"


def missing(task: Task) -> tuple[str, ...]:
    """Return what a full proof lacks."""
    lacking = []
    if task.reference is None:
        lacking.append("--reference MODEL, which never saw the text: what is left, PrivLeak, attacks beyond it")
    if task.holdout is None:
        lacking.append("--holdout SPEC, a text of the same kind that was never seen: membership inference")
    return tuple(lacking)


def _lines(task: Task, base: Base, data: Mapping[str, DataSet]) -> tuple[str, ...]:
    texts = ", ".join(
        f"{name} {sum(len(document.text) for document in one.documents):,} characters" for name, one in data.items()
    )
    learner = task.base or "it; on its base (--base) they cost other texts less"
    return (
        f"model: {task.model}, {_weights(base):,} weights; vectors are learned on {learner}",
        f"texts: {texts}",
        f"device: {choose_device(task.device)}",
    )


def _weights(base: Base) -> int:
    return sum(entry.elements for entry in base.checkpoint.tensors.values())


def _width(base: Base) -> int:
    width = getattr(base.config.get_text_config(), "hidden_size", None)
    return width if isinstance(width, int) and width > 0 else _WIDTH


def needed_space(task: Task, sight: Sight) -> int:
    """Return the bytes that the outputs of a run take at most, all together."""
    trained = 4 * _weights(sight.learner)
    vectors = 0 if task.learning.lora else trained * len(task.lessons)
    return vectors + (0 if task.learning.lora else trained) + sight.base.checkpoint.nbytes
