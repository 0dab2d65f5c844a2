"""Records: every file of an output has a digest in it, it has one of itself, and verify names what is not as it was."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import tiny
import torch
from adapters import save_adapter
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from taskarith.arithmetic.encoding import decode, encode
from taskarith.checkpoints.digests import UNSEALED
from taskarith.checkpoints.header import SEAL
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.combine import combine
from taskarith.errors import CheckpointError, TaskarithError
from taskarith.inspection.verify import verify
from taskarith.inspection.verify_methods import TOLERANCE, _are_near
from taskarith.vectors.extract import extract
from taskarith.vectors.low_rank import extract_low_rank


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, a fine-tune, a vector of it, and an edit with a patch back, of two shards."""
    folder = tmp_path_factory.mktemp("made")
    base = tiny.save_model(folder / "base", dtype=torch.bfloat16, max_shard_size="30KB")
    (base / "LICENSE").write_text("free", encoding="utf-8")
    (base / "modeling_tiny.py").write_text("import os", encoding="utf-8")
    tuned = tiny.save_model(folder / "tuned", nudge_of=base, seed=1, dtype=torch.bfloat16)
    extract(str(base), str(tuned), folder / "v.safetensors")
    apply(str(base), add=[str(folder / "v.safetensors")], output_dir=folder / "out", keep_undo=True)
    return folder


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made / "out", tmp_path / "out")


def names(found):
    return {*found.files.changed, *found.files.missing, *found.files.added}


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
    assert "the record is not as it was written" in done.stdout


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
    with pytest.raises(CheckpointError, match="neither digests of its files nor"):
        verify(out)


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
    assert "digests of its files alone" in found.unsampled
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert verify(folder).files.changed == (weights.name,)
    assert not verify(folder).is_sound


def test_a_vector_that_was_made_again_is_not_blamed_on_the_output(made, tmp_path):
    vector = shutil.copy(made / "v.safetensors", tmp_path / "v.safetensors")
    operands = [str(vector), f"{made / 'tuned'}:0.5"]
    apply(str(made / "base"), add=operands, output_dir=tmp_path / "out")
    extract(str(made / "base"), str(made / "tuned"), vector, dtype="float16", overwrite=True)
    found = verify(tmp_path / "out")
    assert found.is_sound
    assert f"{vector} has changed since" in found.unsampled
    assert "tuned has changed" not in found.unsampled


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"top_k": 0.5}])
def test_a_fine_tune_that_changed_is_not_blamed_on_its_vector(made, tmp_path, options):
    tuned = shutil.copytree(made / "tuned", tmp_path / "tuned")
    path = extract(str(made / "base"), str(tuned), tmp_path / "v.safetensors", **options).path
    assert verify(path).is_sound
    for shard in tuned.glob("*.safetensors"):
        save_file({name: one * 1.5 for name, one in load_file(shard).items()}, shard, metadata={"format": "pt"})
    found = verify(path)
    assert found.is_sound
    assert "fine-tune has changed since" in found.unsampled


def test_a_changed_tensor_of_the_base_does_not_hide_other_wrong_ones(made, tmp_path):
    base = shutil.copytree(made / "base", tmp_path / "base")
    apply(str(base), add=[f"{made / 'tuned'}@@{made / 'base'}"], output_dir=tmp_path / "out")
    record = json.loads((tmp_path / "out/taskarith.json").read_text())
    record["alpha"] = 1.5
    (tmp_path / "out/taskarith.json").write_text(json.dumps(record))
    name = "model.layers.0.mlp.fc1.weight"
    before = verify(tmp_path / "out").wrong
    assert name in before
    for shard in base.glob("*.safetensors"):
        tensors = load_file(shard)
        if name in tensors:
            save_file(tensors | {name: tensors[name] + 1}, shard, metadata={"format": "pt"})
    found = verify(tmp_path / "out")
    assert set(found.wrong) == set(before) - {name}
    assert f"base has changed since, in {name}" in found.unsampled


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "bfloat16"}, {"exact": True}, {"top_k": 0.3}, {"rows": 0.5}, {"bits": 4}, {"bits": 1}]
)
def test_every_byte_of_a_vector_counts(made, tmp_path, options):
    path = extract(str(made / "base"), str(made / "tuned"), tmp_path / "v.safetensors", **options).path
    assert verify(path).is_sound
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    step = (len(data) - start) // 13
    for position in (*range(0, start, start // 11), *range(start, len(data), step), len(data) - 1):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            assert not verify(path).is_sound, position
        except TaskarithError:
            assert position < start


def test_a_vector_of_an_earlier_release(made, tmp_path):
    path = shutil.copy(made / "v.safetensors", tmp_path / "v.safetensors")
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    del header["__metadata__"][SEAL]
    path.write_bytes(data[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(length) + data[8 + length :])
    found = verify(path)
    assert found.is_sound
    assert "no digest of itself" in found.uncovered[0]


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16"])
def test_singular_values_are_compared_within_a_tolerance(dtype):
    base = np.linspace(-2, 2, 501)
    again = base + 0.01 * np.cos(base)
    reach = TOLERANCE * float(np.abs(again - base).max())
    rounded = decode(encode(again, dtype), dtype)
    assert _are_near(rounded, again, base, dtype)
    assert _are_near(decode(encode(again + reach / 2, dtype), dtype), again, base, dtype)
    assert not _are_near(decode(encode(base + 1.01 * (again - base), dtype), dtype), again, base, dtype)
    assert not _are_near(rounded + 0.02, again, base, dtype)
