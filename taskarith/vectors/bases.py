"""The model that a vector is a difference to: where it lies now, and whether it still is what was recorded.

Where a fingerprint is recorded it decides; a path only says where to look.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskarith.checkpoints.checkpoint import Checkpoint, fingerprint_tensors, open_checkpoint
from taskarith.checkpoints.reader import TensorReader, combine_fingerprints
from taskarith.checkpoints.resolve import ResolvedModel, is_hub_id, resolve_model
from taskarith.errors import CheckpointError, MismatchError
from taskarith.progress import SILENT, Listener
from taskarith.spec import ModelRef, exists
from taskarith.vectors.vector import BaseRecord

__all__ = ["ChosenBase", "OwnBase", "RecordedBase", "find_own_base", "is_same_folder", "made_from", "name_own_base"]

_GLANCE = 1 << 20
"""Bytes of the smallest tensors that are compared before a whole model is read."""


@dataclass(frozen=True)
class RecordedBase:
    """The base that a vector, an adapter or a fine-tune records.

    :param owner: What records it, as the user named it.
    :param base: What is recorded.
    :param folder: Where the owner lies: a relative path may be relative to it.
    :param hint: What to type where the base is not found.
    """

    owner: str
    base: BaseRecord
    folder: Path
    hint: str

    def locate(self, listener: Listener = SILENT, *, is_local: bool = False) -> ResolvedModel:
        """Find what lies at the recorded name, whatever it is.

        :param is_local: Download nothing.
        :raises MismatchError: Nothing does.
        """
        name = self.base.name
        is_beside = not exists(name) and exists(self.folder / name)
        reference = ModelRef(str(self.folder / name)) if is_beside else ModelRef(name, self.base.revision)
        try:
            return resolve_model(reference, listener, is_local=is_local)
        except CheckpointError as error:
            raise MismatchError(
                f"the base that {self.owner} records is not found: {error.message}", self.hint
            ) from error

    def check(self, tensors: Mapping[str, str], place: Path) -> None:
        """Compare the recorded fingerprint with those of a model that has been read.

        :param tensors: The fingerprint of each of its tensors.
        :param place: Where it lies.
        :raises MismatchError: It is another model.
        """
        if self.base.fingerprint and self.base.fingerprint != combine_fingerprints(dict(tensors)):
            raise self._is_not([(place, tensors)])

    def glance(self, checkpoint: Checkpoint) -> None:
        """Compare what is recorded of the smallest tensors, before a model is read for hours.

        :raises MismatchError: It is another model.
        """
        if not self._agrees(checkpoint, _GLANCE):
            raise self._is_not([(checkpoint.path, fingerprint_tensors(checkpoint))])

    def is_in(self, checkpoint: Checkpoint, listener: Listener) -> bool:
        """Whether a model is the recorded one; reads all of it, or its smallest tensors if they tell otherwise."""
        if not self._agrees(checkpoint, _GLANCE):
            return False
        return combine_fingerprints(fingerprint_tensors(checkpoint, listener)) == self.base.fingerprint

    def refuse(self, places: Sequence[Checkpoint]) -> MismatchError:
        """Return the error that says that none of some models is the recorded one."""
        return self._is_not([(place.path, fingerprint_tensors(place)) for place in places])

    def _agrees(self, checkpoint: Checkpoint, limit: int) -> bool:
        recorded = self.base.tensors
        if not recorded:
            return True
        if recorded.keys() != checkpoint.tensors.keys():
            return False
        with TensorReader() as reader:
            for entry in sorted(checkpoint.tensors.values(), key=lambda entry: entry.nbytes):
                limit -= entry.nbytes
                if limit < 0:
                    break
                if reader.fingerprint(entry) != recorded[entry.name]:
                    return False
        return True

    def _is_not(self, others: Sequence[tuple[Path, Mapping[str, str]]]) -> MismatchError:
        found = [f"{place}{_count(self.base, tensors)}" for place, tensors in others]
        what = f"neither {' nor '.join(found)} is that model"
        if len(others) == 1:
            place, tensors = others[0]
            where = "another model is there now" if str(place) == self.base.name else f"{place} is another model"
            what = f"{where}{_count(self.base, tensors)}"
        return MismatchError(
            f"{self.owner} was made from {self.base} (fingerprint {self.base.fingerprint}), and {what}", self.hint
        )


@dataclass(frozen=True)
class ChosenBase:
    """The model that a command works on: named by the user, or recorded by what it works with.

    :param resolved: Where it lies.
    :param recorded: What is recorded of it, or None.
    :param is_named: Whether the user named it: then it may be another than the recorded one.
    """

    resolved: ResolvedModel
    recorded: RecordedBase | None = None
    is_named: bool = True

    def open(self) -> Checkpoint:
        """Open it.

        :raises MismatchError: Already the smallest tensors are not as recorded.
        """
        checkpoint = open_checkpoint(self.resolved.path)
        if self.recorded is not None and not self.is_named:
            self.recorded.glance(checkpoint)
        return checkpoint

    def check(self, tensors: Mapping[str, str]) -> tuple[str, ...]:
        """Compare what was read with what is recorded; return what the user should know.

        :param tensors: The fingerprint of each tensor.
        :raises MismatchError: Nobody named it, and it is another model than the recorded one.
        """
        recorded = self.recorded
        if recorded is None or recorded.base.fingerprint in {"", combine_fingerprints(dict(tensors))}:
            return ()
        if not self.is_named:
            recorded.check(tensors, self.resolved.path)
        return (made_from(recorded.owner, recorded.base, str(self.resolved.path), tensors),)


@dataclass(frozen=True)
class OwnBase:
    """The model that the deltas of an operand are differences to.

    :param checkpoint: Its files.
    :param record: Its name as it was found, and its fingerprints, if it has been read.
    :param is_model: Whether it is the model that is edited, which is read with it.
    :param recorded: What the operand records of its base: the model is compared with it when it has been read.
    :param is_named: The user named it: then it may be another than the recorded one.
    """

    checkpoint: Checkpoint
    record: BaseRecord
    is_model: bool
    recorded: RecordedBase | None = None
    is_named: bool = False

    @property
    def is_unread(self) -> bool:
        """Whether the model that is edited has yet to be compared with what the operand records."""
        recorded = self.recorded
        return self.is_model and not self.is_named and recorded is not None and recorded.base.fingerprint != ""

    def check(self, tensors: Mapping[str, str]) -> None:
        """Compare the model that is edited, once its fingerprints are known, with what the operand records.

        :raises MismatchError: The operand was made from another model.
        """
        if self.recorded is not None and self.is_unread:
            self.recorded.check(tensors, self.checkpoint.path)

    def remark(self, tensors: Mapping[str, str]) -> str:
        """Say that the user named another base than the operand records; nothing where it is the same.

        :param tensors: Fingerprints of the model that is edited.
        """
        fingerprint = combine_fingerprints(dict(tensors)) if self.is_model else self.record.fingerprint
        if not self.is_named or self.recorded is None or self.recorded.base.fingerprint in {"", fingerprint}:
            return ""
        what = f"{self.recorded.owner} records that it was made from {self.recorded.base}"
        return f"{what}; the difference to {self.record} is taken, as named"


def name_own_base(
    base: ResolvedModel, model: Checkpoint, recorded: RecordedBase | None, listener: Listener = SILENT
) -> OwnBase:
    """Return the base that the user named for an operand.

    :param base: The base.
    :param model: The model that is edited.
    :param recorded: What the operand records of its base, which may be something else.
    """
    return _own(base, model, recorded, listener, is_named=True)


def find_own_base(recorded: RecordedBase, model: Checkpoint, listener: Listener = SILENT) -> OwnBase:
    """Find the base that an operand records: the model that is edited, or what lies at the recorded name.

    Without a fingerprint the name decides. With one, what can be told apart only by reading it is read here, except for
    the model that is edited: it is compared when it has been read, see ``OwnBase.check``.

    :param recorded: What is recorded.
    :param model: The model that is edited.
    :param listener: Receives progress updates.
    :raises MismatchError: There is no such model.
    """
    place = _locally(recorded, listener)
    if not recorded.base.fingerprint:
        return _own(place or recorded.locate(listener), model, recorded, listener)
    itself = OwnBase(model, BaseRecord(str(model.path)), True, recorded)
    is_alone = is_same_folder(place.path, model.path) if place else not is_hub_id(recorded.base.name)
    if is_alone:
        recorded.glance(model)
        return itself
    if (recorded.base.tensors or place is None) and recorded.is_in(model, listener):
        return itself
    found = _own(place or recorded.locate(listener), model, recorded, listener)
    if found.record.fingerprint == recorded.base.fingerprint:
        return found
    if recorded.is_in(model, listener):
        return itself
    raise recorded.refuse([found.checkpoint, model])


def made_from(owner: str, record: BaseRecord, model: str, tensors: Mapping[str, str]) -> str:
    """Say that a vector was made from another model than the one it is applied to."""
    return f"{owner} was made from {record}, not from {model}{_count(record, tensors)}"


def is_same_folder(first: Path, second: Path) -> bool:
    """Whether two paths lead to one folder."""
    return os.path.realpath(first) == os.path.realpath(second)


def _count(record: BaseRecord, tensors: Mapping[str, str]) -> str:
    differing = record.differing(tensors)
    return f" ({differing} of {len(tensors)} tensors differ)" if differing else ""


def _locally(recorded: RecordedBase, listener: Listener) -> ResolvedModel | None:
    """Return what lies at the recorded name on this machine, if it can be opened as a model."""
    try:
        place = recorded.locate(listener, is_local=True)
        open_checkpoint(place.path)
    except (CheckpointError, MismatchError):
        return None
    return place


def _own(
    place: ResolvedModel,
    model: Checkpoint,
    recorded: RecordedBase | None,
    listener: Listener,
    *,
    is_named: bool = False,
) -> OwnBase:
    if is_same_folder(place.path, model.path):
        return OwnBase(model, BaseRecord.of(place), True, recorded, is_named)
    checkpoint = open_checkpoint(place.path)
    record = BaseRecord.of(place, fingerprint_tensors(checkpoint, listener))
    return OwnBase(checkpoint, record, False, recorded, is_named)
