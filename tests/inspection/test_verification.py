"""Every file of an output is compared with the digest in its record."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from adapters import save_adapter
from typer.testing import CliRunner

from taskarith.checkpoints.digests import UNSEALED
from taskarith.cli.main import app
from taskarith.edit.combine import combine
from taskarith.errors import CheckpointError, TaskarithError
from taskarith.inspection.verify import verify
from taskarith.vectors.low_rank import extract_low_rank


def names(found):
    return {*found.files.changed, *found.files.missing, *found.files.added}


def test_its_repr_says_what_counts(made):
    assert re.fullmatch(
        r"Verification\(is_sound=True, path=.*, kind='edit', tensors=\d+, sampled=[1-9]\d*\)",
        repr(verify(made / "out")),
    )


def test_every_file_has_a_digest_and_the_record_a_time(made):
    record = json.loads((made / "out/taskarith.json").read_text())
    there = {path.name: path for path in (made / "out").iterdir()}
    assert set(record["files"]) == there.keys() - {"taskarith.json"}
    weights = {name for name in there if name.startswith("model-")}
    assert len(weights) > 1
    for name, found in record["files"].items():
        data = there[name].read_bytes()
        assert found["bytes"] == len(data)
        if name in weights:
            head = data[: 8 + int.from_bytes(data[:8], "little")]
            assert found["header_sha256"] == hashlib.sha256(head).hexdigest()
        else:
            assert found["sha256"] == hashlib.sha256(data).hexdigest()
    time = datetime.fromisoformat(record["time"])
    assert time.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - time) < timedelta(hours=1)
    raw = (made / "out/taskarith.json").read_bytes()
    assert hashlib.sha256(raw.replace(record["digest"].encode(), UNSEALED.encode())).hexdigest() == record["digest"]


def test_sha256_of_weights_if_they_are_wanted(made, tmp_path):
    args = ["apply", str(made / "base"), "--add", str(made / "v.safetensors"), "-o", str(tmp_path / "out"), "--sha256"]
    assert CliRunner().invoke(app, args).exit_code == 0
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    for name in record["files"]:
        data = (tmp_path / "out" / name).read_bytes()
        assert record["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert verify(tmp_path / "out").is_sound


def test_every_changed_and_every_missing_file_is_named(made, out):
    assert verify(out).is_sound
    for path in sorted(out.iterdir()):
        if path.name == "taskarith.json":
            continue
        data = path.read_bytes()
        for spoiled in (None, data[:-1] + bytes([data[-1] ^ 1]), data[:10] + b"?" + data[11:], data[:-1], b""):
            if spoiled is None:
                path.unlink()
            else:
                path.write_bytes(spoiled)
            found = verify(out)
            assert not found.is_sound
            assert names(found) == {path.name} or (found.damaged and not names(found)), (path.name, found)
            path.write_bytes(data)
    assert verify(out).is_sound


@pytest.mark.parametrize("name", ["modeling_evil.py", "pytorch_model.bin", "a/b.json", ".env", "adapter_config.json"])
def test_an_added_file_is_named(out, name):
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("{}", encoding="utf-8")
    found = verify(out)
    assert found.files.added == (name,)
    assert not found.is_sound


def test_links_are_not_walked_into_and_files_of_the_hub_are_harmless(made, out):
    (out / ".cache/huggingface").mkdir(parents=True)
    (out / ".cache/huggingface/download.lock").touch()
    (out / ".gitattributes").touch()
    found = verify(out)
    assert found.files.added == (".cache/", ".gitattributes")
    assert found.is_sound
    (out / "more").symlink_to(made)
    assert verify(out).files.added == (".cache/", ".gitattributes", "more/")
    assert not verify(out).is_sound


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(alpha=2.0),
        lambda record: record.update(command="another"),
        lambda record: record.update(fingerprint="0" * 32),
        lambda record: record.update(time="2001-01-01T00:00:00+00:00"),
        lambda record: record["base"].update(fingerprint="0" * 32),
        lambda record: record["operands"][0].update(fingerprint="0" * 32),
        lambda record: record["files"].popitem(),
        lambda record: record.pop("digest"),
        lambda record: record.update(digest="0" * 64),
        lambda record: record.update(more=1),
    ],
)
def test_a_changed_record_is_said(out, change):
    record = json.loads((out / "taskarith.json").read_text())
    change(record)
    (out / "taskarith.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
    assert verify(out).is_record_changed
    done = CliRunner().invoke(app, ["verify", str(out)])
    assert done.exit_code == 1
    assert "the record was changed after it was written" in done.stdout


def test_every_byte_of_a_record_counts(out):
    path = out / "taskarith.json"
    text = path.read_bytes()
    for position in range(0, len(text), len(text) // 41):
        path.write_bytes(text[:position] + bytes([text[position] ^ 1]) + text[position + 1 :])
        with suppress(TaskarithError):
            assert not verify(out).is_sound, position


def test_what_an_earlier_release_wrote_is_verified_as_far_as_it_goes(out):
    record = json.loads((out / "taskarith.json").read_text())
    for key in ("files", "digest", "time"):
        del record[key]
    (out / "taskarith.json").write_text(json.dumps(record), encoding="utf-8")
    (out / "config.json").write_text((out / "config.json").read_text() + " ", encoding="utf-8")
    found = verify(out)
    assert found.is_sound
    assert found.files is None
    assert len(found.uncovered) == 2
    done = CliRunner().invoke(app, ["verify", str(out)])
    assert "configuration, tokenizer, code, index and undo patch are not compared" in done.stderr
    record["kind"] = "full"
    (out / "taskarith.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CheckpointError, match="neither digests of files nor"):
        verify(out)


def test_of_a_run_that_has_records_in_its_parts_these_are_named(tmp_path):
    for name in ("", "edited", "measured/deep"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "taskarith.json").write_text(json.dumps({"kind": "unlearning"}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="lists no files: its parts have records of their own") as caught:
        verify(tmp_path)
    assert caught.value.hint == f"Check edited one by one: taskarith verify {tmp_path / 'edited'}"


def adapters(made, folder):
    extract_low_rank(str(made / "base"), str(made / "tuned"), folder / "a", rank=2)
    return folder / "a"


def sums(made, folder):
    adapter = save_adapter(made / "base", folder / "adapter")
    combine(f"{adapter}:0.5 + {adapter}:0.25", folder / "sum")
    return folder / "sum"


@pytest.mark.parametrize(("make", "kind"), [(adapters, "lowrank"), (sums, "combination")])
def test_folders_of_every_kind_are_verified(made, tmp_path, make, kind):
    folder = make(made, tmp_path)
    found = verify(folder)
    assert (found.kind, found.is_sound, found.uncovered) == (kind, True, ())
    assert "digests of its files only" in found.unsampled
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(folder).files.changed == (weights.name,)
    assert not verify(folder).is_sound
