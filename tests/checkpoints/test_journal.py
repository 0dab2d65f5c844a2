"""What stopped runs leave: kept where the failure says nothing about the data, and believed where it can be proved."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
from pathlib import Path

import pytest
import tiny
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.journal import Journal
from taskarith.checkpoints.reader import TensorReader, check_unchanged, file_states
from taskarith.checkpoints.team import ALONE, Team
from taskarith.checkpoints.writer import growing_file, sized_files, write_at
from taskarith.cli.main import app
from taskarith.edit.agreement import agreed_plan
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.undo import undo
from taskarith.errors import CheckpointError, MismatchError, OutputError, ReadError
from taskarith.merging.methods import parse_method
from taskarith.spec import OperandRef
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, its fine-tune, the vector between them, and an edited model with its undo patch."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny.save_model(folder / "base", max_shard_size="30KB")
    tuned = tiny.save_model(folder / "tuned", nudge_of=base, seed=1)
    extract(str(base), str(tuned), folder / "v.safetensors")
    apply(str(base), add=[str(folder / "v.safetensors")], output_dir=folder / "edited", keep_undo=True)
    return folder


RESUMED = {
    "apply": lambda made, out: apply(str(made / "base"), add=[str(made / "v.safetensors")], output_dir=out),
    "extract": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out),
    "combine": lambda made, out: combine(f"{made / 'v.safetensors'}:0.5", out, base=str(made / "base")),
}
OTHERS = {
    "undo patch": lambda made, out: apply(
        str(made / "base"), add=[str(made / "v.safetensors")], output_dir=out, keep_undo=True
    ),
    "undo": lambda made, out: undo(made / "edited", out),
    "exact": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out, exact=True),
    "top-k": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out, top_k=0.1),
    "bits": lambda made, out: extract(str(made / "base"), str(made / "tuned"), out, bits=4),
    "rank": lambda made, out: extract_low_rank(str(made / "base"), str(made / "tuned"), out, rank=2),
}


def output_of(verb, folder):
    return folder / ("out.safetensors" if verb in {"extract", "combine", "exact", "top-k", "bits"} else "out")


def room_of(out):
    return out.with_name(f".{out.name}.partial")


def contents(out):
    """Return the bytes of an output: a file, or all files of a folder."""
    found = {path.name: path.read_bytes() for path in (out.iterdir() if out.is_dir() else [out])}
    record = json.loads(found.pop("taskarith.json", b"{}"))
    return found | {"record": {key: value for key, value in record.items() if key not in {"time", "digest"}}}


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """What each verb writes if nobody interrupts it."""
    found = {}
    for verb, call in RESUMED.items():
        out = output_of(verb, tmp_path_factory.mktemp("whole"))
        call(made, out)
        found[verb] = contents(out)
    return found


def stop(monkeypatch, made, verb, out, error, after=5):
    """Run a verb that fails after so many tensors."""
    record, left = Journal.record, [after]

    def fail(self, name, entry):
        record(self, name, entry)
        left[0] -= 1
        if left[0] == 0:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "record", fail)
        try:
            RESUMED[verb](made, out)
        except BaseException as caught:  # of any kind
            return caught
    raise AssertionError("it did not fail")


# --- disks that fail -------------------------------------------------------------------------------------------------


def fail_once(monkeypatch, suffix):
    """Let the disk lose what is written to one file, and report it once, to a descriptor that can write it."""
    told = []

    def losing(sync):
        def do(descriptor):
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            writes = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if not told and writes and path.endswith(suffix):
                told.append(path)
                raise OSError(errno.EIO, "Input/output error")
            sync(descriptor)

        return do

    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, losing(getattr(os, name)))
    return told


@pytest.mark.parametrize(
    ("verb", "suffix"),
    [
        ("apply", "-00001-of-00005.safetensors"),
        ("extract", "output"),
        ("combine", "output"),
        ("undo patch", "-undo.safetensors"),
        ("undo", "-00005-of-00005.safetensors"),
        ("exact", "output"),
        ("top-k", "output"),
        ("bits", "output"),
        ("rank", "adapter_model.safetensors"),
    ],
)
def test_what_the_disk_loses_is_an_error_although_it_is_told_once(tmp_path, monkeypatch, made, verb, suffix):
    out, call = output_of(verb, tmp_path), (RESUMED | OTHERS)[verb]
    with monkeypatch.context() as patch:
        told = fail_once(patch, suffix)
        with pytest.raises(OutputError, match="Input/output error"):
            call(made, out)
    assert told
    assert not out.exists()
    call(made, out)
    assert out.exists()
    assert not room_of(out).exists()


def fill(descriptors, error):
    for descriptor in descriptors:
        write_at(descriptor, b"x" * 100, 0)
    if error:
        raise error


def test_a_file_that_lost_something_is_emptied_and_the_error_of_the_body_is_that_of_the_run(tmp_path, monkeypatch):
    sizes = {tmp_path / name: 100 for name in ("sound", "lost")}
    for body in (None, KeyboardInterrupt):
        fail_once(monkeypatch, "lost")
        with pytest.raises(body or OSError), sized_files(sizes) as files:
            fill(files.values(), body)
        assert [path.read_bytes() for path in sizes] == [b"x" * 100, b""]
    (tmp_path / "there").touch()
    with pytest.raises(FileExistsError), growing_file(tmp_path / "there"):
        pass


# --- what is kept ----------------------------------------------------------------------------------------------------

KEPT = [OSError(number, os.strerror(number)) for number in (errno.ENOSPC, errno.EIO, errno.EMFILE)]
KEPT += [KeyboardInterrupt(), MemoryError(), ReadError("a", "b"), OutputError("a", "b"), SystemExit(1)]


@pytest.mark.parametrize("error", KEPT, ids=repr)
@pytest.mark.parametrize("verb", RESUMED)
def test_work_is_kept_on_failures_that_say_nothing_about_the_data(tmp_path, monkeypatch, made, whole, verb, error):
    out = output_of(verb, tmp_path)
    seen = stop(monkeypatch, made, verb, out, error)
    assert "goes on" in f"{seen} {getattr(seen, '__notes__', '')}"
    lines = (room_of(out) / "journal.jsonl").read_text().splitlines()
    assert len([line for line in lines if line]) >= 6
    done = []
    with monkeypatch.context() as patch:
        record = Journal.record
        patch.setattr(Journal, "record", lambda self, name, entry: done.append(name) or record(self, name, entry))
        RESUMED[verb](made, out)
    assert not {json.loads(line)["name"] for line in lines[1:] if line} & {*done}
    assert contents(out) == whole[verb]
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("error", [MismatchError("a", "b"), CheckpointError("a", "b")], ids=repr)
def test_work_is_not_kept_where_the_data_are_wrong(tmp_path, monkeypatch, made, error):
    out = tmp_path / "out"
    seen = stop(monkeypatch, made, "apply", out, error)
    assert seen is error
    assert list(tmp_path.iterdir()) == []
    assert not hasattr(seen, "__notes__")


@pytest.mark.parametrize(
    ("options", "place", "words"),
    [
        ([], "taskarith.vectors.extract.subtract", "goes on where this one stopped"),
        (["--exact"], "taskarith.vectors.extract.write_packed", "starts anew"),
        (["--top-k", "0.1"], "taskarith.vectors.extract.write_packed", "starts anew"),
        (["--rank", "2"], "taskarith.vectors.low_rank.write_adapter", "starts anew"),
    ],
)
def test_what_an_interruption_says_is_true_of_the_command(tmp_path, monkeypatch, made, options, place, words):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupt)
    out = str(tmp_path / ("out" if "--rank" in options else "v.safetensors"))
    done = CliRunner().invoke(app, ["extract", str(made / "base"), str(made / "tuned"), "-o", out, *options])
    assert done.exit_code == 130
    assert words in " ".join(done.stderr.split())
    assert any(tmp_path.iterdir()) == ("goes on" in words)


# --- partial folders of strangers ------------------------------------------------------------------------------------


def each_line(change):
    def do(room, victim):
        path = room / "journal.jsonl"
        first, *lines = path.read_text().splitlines()
        path.write_text("\n".join([first, *(json.dumps(change(json.loads(line))) for line in lines if line)]) + "\n")

    return do


def resigned(change):
    """Write the changed entries as this program would: only their types and values are wrong."""

    def do(room, victim):
        path = room / "journal.jsonl"
        first, *lines = path.read_text().splitlines()
        entries = [change(json.loads(line)) for line in lines if line]
        path.unlink()
        journal = Journal(path, json.loads(first)["plan"])
        for entry in entries:
            entry.pop("check", None)
            journal.record(entry.pop("name"), entry)
        journal.close()

    return do


def replaced(name, how):
    def do(room, victim):
        path = next(room.glob(name))
        path.unlink()
        how(path, victim)

    return do


def pipe(path, victim):
    os.mkfifo(path)


def folder(path, victim):
    path.mkdir()


def appended(data):
    def do(room, victim):
        path = room / "journal.jsonl"
        path.write_bytes(path.read_bytes() + data)

    return do


def linked_folder(room, victim):
    (room / "output").rename(room.parent / "elsewhere")
    (room / "output").symlink_to(room.parent / "elsewhere")


def foreign(room, victim):
    (room / "output" / "sub").mkdir()
    (room / "output" / "sub" / "evil.py").write_text("import os")
    (room / "output" / "tokenizer.model").symlink_to(victim)
    (room / "output" / "taskarith-undo.safetensors").write_bytes(b"half")
    (room / "output" / "config.json").symlink_to(victim)
    (room / "finished.json").unlink()
    (room / "finished.json").symlink_to(victim)
    (room / "journal-1.jsonl").symlink_to(victim)


STRANGE = {
    "finite as text": each_line(lambda entry: entry | {"finite": "yes"}),
    "another base": each_line(lambda entry: entry | {"base": "0" * 32}),
    "no operands": each_line(lambda entry: {key: value for key, value in entry.items() if key != "operands"}),
    "another name": each_line(lambda entry: entry | {"name": "model.norm.weight"}),
    "a list as name": each_line(lambda entry: entry | {"name": [1]}),
    "no objects": each_line(lambda entry: [entry]),
    "types, signed": resigned(lambda entry: entry | {"finite": 1}),
    "operands, signed": resigned(lambda entry: entry | {"operands": None}),
    "numbers, signed": resigned(lambda entry: entry | {"base": 7, "error": -1.0}),
    "unknown names, signed": resigned(lambda entry: entry | {"name": "no.such.tensor"}),
    "no Unicode": appended(b"\xff\xfe" * 1000),
    "deep nesting": appended(b"[" * 100_000),
    "a huge number": appended(b'{"name": ' + b"9" * 9999 + b"}\n"),
    "a linked journal": replaced("journal.jsonl", lambda path, victim: path.symlink_to(victim)),
    "a journal elsewhere": replaced("journal.jsonl", lambda path, victim: path.hardlink_to(victim)),
    "a pipe as journal": replaced("journal.jsonl", pipe),
    "a linked shard": replaced("output/model-00001-*", lambda path, victim: path.symlink_to(victim)),
    "a shard elsewhere": replaced("output/model-00001-*", lambda path, victim: path.hardlink_to(victim)),
    "a pipe as shard": replaced("output/model-00001-*", pipe),
    "a folder as shard": replaced("output/model-00001-*", folder),
    "a linked output": linked_folder,
    "foreign files": foreign,
}


@pytest.mark.parametrize("change", STRANGE)
def test_a_partial_folder_of_a_stranger_decides_nothing(tmp_path, monkeypatch, made, whole, change):
    out, victim = tmp_path / "out", tmp_path / "victim"
    stop(monkeypatch, made, "apply", out, KeyboardInterrupt())
    victim.write_text("precious")
    STRANGE[change](room_of(out), victim)
    RESUMED["apply"](made, out)
    assert contents(out) == whole["apply"]
    assert not any(path.is_symlink() for path in out.iterdir())
    assert victim.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} <= {"out", "victim", "elsewhere"}


@pytest.mark.parametrize("verb", ["extract", "combine"])
@pytest.mark.parametrize(
    "changed", [{"finite": None}, {"output": 3}, {"squares": "1"}, {"moved": -1}, {"inexact": True}], ids=str
)
def test_what_is_noted_of_a_delta_has_the_right_types(tmp_path, monkeypatch, made, whole, verb, changed):
    out = output_of(verb, tmp_path)
    stop(monkeypatch, made, verb, out, KeyboardInterrupt())
    resigned(lambda entry: entry | changed)(room_of(out), None)
    RESUMED[verb](made, out)
    assert contents(out) == whole[verb]


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_a_file_that_also_lies_elsewhere_is_not_gone_on_with(tmp_path, monkeypatch, made, whole, how):
    out, victim = tmp_path / "out.safetensors", tmp_path / "victim"
    stop(monkeypatch, made, "extract", out, KeyboardInterrupt())
    (room_of(out) / "output").rename(victim)
    before = victim.read_bytes()
    getattr(room_of(out) / "output", how)(victim)
    RESUMED["extract"](made, out)
    assert contents(out) == whole["extract"]
    assert victim.read_bytes() == before
    assert not out.is_symlink()


# --- the plan and its inputs -----------------------------------------------------------------------------------------


def test_a_method_looks_at_the_scale_of_vectors_that_do_not_move_a_tensor(made):
    base = open_checkpoint(made / "base")
    vector, method = str(made / "v.safetensors"), parse_method("dare_linear", density=1.0, normalize=True)
    prints = set()
    for scale in ({}, {"mlp": (0.5,)}, {"mlp": (0.0,)}):
        edit = Edit((OperandRef(vector, 0.5), OperandRef(vector, 0.5, scale)), method=method)
        operands = open_edit(edit, base)
        operands[1].vector.shapes.pop(next(name for name in operands[1].vector.shapes if "mlp" in name))
        prints.add(plan_edit(base, operands, edit).fingerprint())
    assert len(prints) == 3


def test_the_release_is_part_of_the_plan(made, monkeypatch):
    base = open_checkpoint(made / "base")
    edit = Edit.from_options([str(made / "v.safetensors:0.5")])
    plan = plan_edit(base, open_edit(edit, base), edit)
    before = plan.fingerprint()
    monkeypatch.setattr("taskarith.edit.plan.release", lambda: "another")
    assert plan.fingerprint() != before


def rewritten(path, size=-4):
    """Change a file in place and set its time back."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(size, os.SEEK_END)
        file.write(b"\x00\x00\x00\x3f")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_input_that_was_changed_in_place_is_noticed_although_its_time_was_set_back(tmp_path, made):
    copy = shutil.copytree(made / "tuned", tmp_path / "tuned") / "model.safetensors"
    checkpoint = open_checkpoint(copy.parent)
    states = file_states([copy])
    with TensorReader() as reader:
        entry = next(iter(checkpoint.tensors.values()))
        reader.read(entry, 0, 4)
        rewritten(copy)
        reader.read(entry, 0, 4)  # of the open file; the next line is what looks at it again
    with pytest.raises(CheckpointError, match="changed while it was read"):
        check_unchanged(states)
    with TensorReader() as reader, pytest.raises(CheckpointError, match="changed while it was read"):
        reader.read(entry, 0, 4)  # its header was read before


def test_readers_close_what_nobody_reads_where_the_system_allows_no_more_files(made, monkeypatch):
    checkpoint, opened, limit = open_checkpoint(made / "base"), os.open, [3]

    def limited(*arguments):
        if limit[0] == 0:
            raise OSError(errno.EMFILE, "Too many open files")
        limit[0] -= 1
        return opened(*arguments)

    closed = os.close

    def counted(descriptor):
        limit[0] += 1
        closed(descriptor)

    assert len(checkpoint.shards) > 3
    monkeypatch.setattr(os, "open", limited)
    monkeypatch.setattr(os, "close", counted)
    with TensorReader() as reader:
        for _ in range(2):
            for entry in checkpoint.tensors.values():
                assert len(reader.read(entry, 0, 1)) == 1
    limit[0] = 0
    with TensorReader() as reader, pytest.raises(ReadError, match="Too many open files"):
        reader.read(entry, 0, 1)


# --- several hosts ---------------------------------------------------------------------------------------------------


def agree(*plans):
    """Let processes compare their plans; return what each of them gets, or the error that it raises."""
    barrier, told, found = threading.Barrier(len(plans)), {}, {}

    def gather(rank):
        def do(mine):
            told[rank] = mine
            barrier.wait()
            everything = [told[index] for index in range(len(plans))]
            barrier.wait()
            return everything

        return do

    def call(rank, plan):
        try:
            found[rank] = agreed_plan(plan, Team(rank, len(plans), gather=gather(rank)))
        except MismatchError as error:
            found[rank] = error.message

    threads = [threading.Thread(target=call, args=one) for one in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in range(len(plans))]


def planned(folder, coefficient=0.5):
    base = open_checkpoint(folder / "base")
    edit = Edit((OperandRef(str(folder / "v.safetensors"), coefficient),))
    return plan_edit(base, open_edit(edit, base), edit)


def test_processes_that_see_copies_of_the_inputs_agree_by_content(tmp_path, made):
    copy = tmp_path / "copy"
    for name in ("base", "tuned"):
        shutil.copytree(made / name, copy / name)
    shutil.copy(made / "v.safetensors", copy)
    plan = planned(made)
    assert agreed_plan(plan, ALONE) == plan.fingerprint()
    assert agree(plan, plan) == [plan.fingerprint()] * 2
    assert agree(plan, planned(copy)) == [plan.fingerprint()] * 2
    assert {*agree(plan, planned(made, 0.25))} == {"process 1 would do another edit than process 0"}
    weights = sorted((copy / "base").glob("model-*"))[1]
    rewritten(weights)
    assert {*agree(plan, plan, planned(copy))} == {f"process 2 has another {weights.name} than process 0"}
    extract(str(made / "base"), str(made / "tuned"), copy / "v.safetensors", dtype="float64", overwrite=True)
    assert {*agree(plan, planned(copy))} == {"process 1 has another v.safetensors than process 0"}


def test_processes_that_do_not_see_one_output_folder_say_so(tmp_path, made, monkeypatch):
    monkeypatch.setattr(Journal, "record", lambda *_: None)
    with pytest.raises(OutputError, match="not reported as written"):
        RESUMED["apply"](made, tmp_path / "out")
