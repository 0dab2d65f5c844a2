"""What stopped runs leave, as a stranger could have left it: a run that goes on gives what an undisturbed one gives."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback, TrainerState

from benchmarks.robustness import sound
from benchmarks.robustness.damage import changed, damage_file
from benchmarks.robustness.mutate import mutate_bytes, mutate_json
from benchmarks.robustness.runner import Reader
from taskarith.checkpoints.header import TensorEntry, read_header
from taskarith.checkpoints.journal import Journal, are_fingerprints
from taskarith.checkpoints.publish import publish
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.models.load import load_model
from taskarith.progress import SILENT
from taskarith.training.finetune import finetune
from taskarith.training.resume import check_checkpoint, check_leftover, finish_checkpoint, last_checkpoint
from taskarith.training.trained import load_trained
from taskarith.vectors.extract import extract

__all__ = ["RESUMED"]

_VICTIM = "victim"
"""A file of the user's that links of strangers lead to."""
_SIGNED = "signed"
"""Says that what was damaged fits its digests."""
_RECORD = "taskarith.json"
_CHANGING = {"time", "digest", "command", "seconds", "tokens_per_second", "mfu", "files"}
"""What two records of one edit differ in; the files themselves are compared."""


def _inputs(folder: Path) -> Path:
    """Return where the inputs lie: in the sound folder, as what a stopped run left holds for these alone."""
    return folder.with_name("sound")


def _undisturbed(folder: Path) -> Path:
    """Return where undisturbed runs write: beside the folder of a case, as files name their inputs relative to them."""
    return folder.with_name("undisturbed")


_VERBS: dict[str, Callable[[Path, Path], Any]] = {
    "apply": lambda made, out: apply(str(made / "base"), negate=[str(made / "v.safetensors")], output_dir=out),
    "extract.safetensors": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out),
    "combine.safetensors": lambda made, out: combine(f"{made / 'v.safetensors'}:0.5", out, base=str(made / "base")),
}


def _prepare_partial(folder: Path) -> None:
    """Make inputs, what each verb gives, and what each leaves when it is stopped after five tensors.

    A plan names its inputs relative to the output, so the stopped runs are beside the folder, as the cases will be.
    """
    stopped = folder.with_name("stopped")
    stopped.mkdir()
    sound.make_model(folder / "base", shards=2)
    sound.make_model(folder / "tuned", seed=1)
    extract(str(folder / "base"), str(folder / "tuned"), folder / "v.safetensors")
    record = Journal.record
    for name, call in _VERBS.items():
        call(folder, _undisturbed(folder) / name)

        def stop(journal: Journal, *entry: Any) -> None:
            if len(journal.done) == 5:
                raise KeyboardInterrupt
            record(journal, *entry)

        with mock.patch.object(Journal, "record", stop), contextlib.suppress(KeyboardInterrupt):
            call(folder, stopped / name)
        (stopped / f".{name}.partial").rename(folder / f".{name}.partial")
    (folder / _VICTIM).write_text("precious", encoding="utf-8")


def _damage_partial(rng: Random, folder: Path) -> None:
    """Damage what one of the stopped runs left: journal, output, or what lies beside them."""
    name = rng.choice(sorted(_VERBS))
    room = folder / f".{name}.partial"
    paths = [path for path in sorted(room.rglob("*")) if path.is_file() and path.name != "lock"]
    path, kind = rng.choice(paths), rng.random()
    if kind < 0.3:
        _sign(rng, room / "journal.jsonl")
        (folder / _SIGNED).touch()
    elif kind < 0.5:
        damage_file(rng, room / "journal.jsonl")
    elif kind < 0.6:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    elif kind < 0.8:
        damage_file(rng, path)
    else:
        _put(rng, folder, room)
    (folder / "changed").write_text(name, encoding="utf-8")


def _sign(rng: Random, path: Path) -> None:
    """Damage what a line of a journal says, and write it as a run would."""
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines if line]
    place = rng.randrange(len(entries))
    entries[place].pop("check")
    with contextlib.suppress(ValueError, RecursionError):  # what is not JSON cannot be signed
        entries[place] = json.loads(mutate_json(rng, json.dumps(entries[place])))
    path.unlink()
    with contextlib.closing(Journal(path, json.loads(first)["plan"])) as journal:
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                journal.record(entry["name"], {key: entry[key] for key in entry if key not in {"name", "check"}})


def _put(rng: Random, folder: Path, room: Path) -> None:
    """Put into a partial folder what does not belong there: a file, a link, a second name, a list of moves."""
    victim, output = folder / _VICTIM, room / "output"
    names = ["journal-1.jsonl", "finished.json", "moves.json", "old", "new", "factors", "lock", "journal.jsonl", "x"]
    places = [room / name for name in names]
    if output.is_dir():
        shards = sorted(one.name for one in output.iterdir())
        places += [output / name for name in (_RECORD, "config.json", "evil.py", *shards)]
    else:
        places.append(output)
    place = rng.choice(places)
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    match rng.randrange(5):
        case 0:
            place.symlink_to(victim)
        case 1:
            place.hardlink_to(victim)
        case 2:
            place.symlink_to(folder / "base" if (folder / "base").exists() else folder)
        case 3:
            place.mkdir()
            (place / "evil.py").write_text("import os", encoding="utf-8")
        case _:
            place.write_bytes(mutate_json(rng, '{"old": ["x"], "new": ["config.json", "y"]}'))


def _read_partial(folder: Path) -> None:
    """Go on where the runs were stopped, and compare."""
    made, name = _inputs(folder), changed(folder, "apply").name
    _VERBS[name](made, folder / name)
    wanted, found = _undisturbed(folder) / name, folder / name
    if (folder / _SIGNED).exists():  # what it says of the inputs is believed; the weights are what they should be
        assert _weights(wanted) == _weights(found), "other weights than those of an undisturbed run"  # noqa: S101
    else:
        _same(wanted, found)
    assert (folder / _VICTIM).read_text(encoding="utf-8") == "precious", "a file was written through a link"  # noqa: S101


class _EnoughError(Exception):
    """All that a stopped run left has been looked at."""


def _open_partial(folder: Path) -> None:
    """Go on as a run does, up to what it believes to be finished, and compare that."""
    name = changed(folder, "apply").name
    wanted, plan = _undisturbed(folder) / name, _plan(_inputs(folder) / f".{name}.partial")
    files = sorted(wanted.glob("*.safetensors")) if wanted.is_dir() else [wanted]
    parts = [file.name for file in files] if wanted.is_dir() else ()
    with (
        contextlib.suppress(_EnoughError),
        publish(folder / name, is_folder=wanted.is_dir(), plan=plan, parts=parts) as place,
        TensorReader() as reader,
    ):
        outputs = {}
        for file in files:
            output = place.path / file.name if parts else place.path
            output.touch()
            os.truncate(output, file.stat().st_size)
            outputs |= {one: replace(one, path=output, state=()) for one in _tensors(file)}
        done = place.journal.intact(outputs.values(), SILENT, lambda _, entry: are_fingerprints(entry.get("output")))
        believed = [(before, after) for before, after in outputs.items() if after.name in done]
        wrong = [after.name for before, after in believed if reader.fingerprint(before) != reader.fingerprint(after)]
        assert not wrong, f"believed to be finished, and are not: {wrong}"  # noqa: S101
        raise _EnoughError
    assert (folder / _VICTIM).read_text(encoding="utf-8") == "precious", "a file was written through a link"  # noqa: S101


@functools.cache
def _plan(room: Path) -> str:
    with (room / "journal.jsonl").open(encoding="utf-8") as file:
        return str(json.loads(file.readline())["plan"])


@functools.cache
def _tensors(path: Path) -> tuple[TensorEntry, ...]:
    return read_header(path).tensors


def _weights(path: Path) -> dict[str, str]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    with TensorReader() as reader:
        return {one.name: reader.fingerprint(one) for file in files for one in read_header(file).tensors}


def _same(wanted: Path, found: Path) -> None:
    """See that two outputs hold the same, and no links."""
    first, second = _contents(wanted), _contents(found)
    differing = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    assert not differing, f"other files than those of an undisturbed run: {differing}"  # noqa: S101
    assert not any(path.is_symlink() for path in (found, *found.glob("*"))), "a link was published"  # noqa: S101


def _contents(path: Path) -> dict[str, Any]:
    if path.is_file():
        return {"": path.read_bytes()}
    found: dict[str, Any] = {one.name: one.read_bytes() for one in path.iterdir()}
    record = json.loads(found[_RECORD])
    return found | {_RECORD: {key: value for key, value in record.items() if key not in _CHANGING}}


# --- training --------------------------------------------------------------------------------------------------------

_ROOM = ".tuned.training"


def _train(made: Path, out: Path, *, resume: bool = False) -> None:
    finetune(
        str(made / "base"),
        [str(made / "forget.txt")],
        out,
        block_size=4,
        max_steps=2,
        save_steps=1,
        device="cpu",
        resume=resume,
    )


def _prepare_training(folder: Path) -> None:
    """Make a model and a text, a fine-tune in two steps, and what one leaves that is stopped after the first step."""
    sound.make_model(folder / "base")
    (folder / "forget.txt").write_text("t1 t2 t3 t4 t5 t6 t7 t8 t9 t1 t2 t3", encoding="utf-8")
    _train(folder, _undisturbed(folder) / "tuned")

    def stop(_: Any, __: Any, state: TrainerState, *___: Any, **____: Any) -> None:
        if state.global_step:
            raise KeyboardInterrupt

    with mock.patch.object(TrainerCallback, "on_step_begin", stop), contextlib.suppress(KeyboardInterrupt):
        _train(folder, folder / "tuned")


def _damage_training(rng: Random, folder: Path) -> None:
    """Damage one of the files of a checkpoint; every second time its digests are made to fit."""
    paths = sorted(path for path in (folder / _ROOM).rglob("*") if path.is_file())
    path = rng.choice(paths)
    damage_file(rng, path)
    if rng.random() < 0.5:
        with contextlib.suppress(IsADirectoryError):  # the digests' own place is what was damaged
            finish_checkpoint(next((folder / _ROOM).glob("checkpoint-*")))
            (folder / _SIGNED).touch()


def _read_training(folder: Path) -> None:
    """Go on with the training, and compare."""
    made = _inputs(folder)
    _train(made, folder / "tuned", resume=True)
    if not (folder / _SIGNED).exists():  # else it holds what it says, whatever that is
        _same(_undisturbed(folder) / "tuned", folder / "tuned")


def _open_training(folder: Path) -> None:
    """Read a checkpoint up to the trained weights; what torch and transformers read of it, only a training reads."""
    check_leftover(folder / "tuned", resume=True, overwrite=False, listener=SILENT)
    checkpoint = last_checkpoint(folder / _ROOM)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        load_trained(_model(_inputs(folder) / "base"), checkpoint)


@functools.cache
def _model(path: Path) -> Any:
    return load_model(path, torch.float32)


RESUMED = (
    Reader("partial", _prepare_partial, _damage_partial, _read_partial, _open_partial, share=50),
    Reader("training", _prepare_training, _damage_training, _read_training, _open_training, share=100, seconds=5),
)
