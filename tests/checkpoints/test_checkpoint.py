"""Headers, model folders and hub references: what is sound is read, what lies is refused."""

from __future__ import annotations

import json
import os
import struct

import oracle
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import _TYPES, load_file, save_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.header import build_header, read_header
from taskarith.checkpoints.reader import TensorReader
from taskarith.checkpoints.resolve import resolve_model
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.errors import CheckpointError
from taskarith.vectors.extract import extract


def write_raw(path, table, data=b""):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": (b"", "header"),
    "no json": (b"{", "safetensors"),
    "a list": ([1], "not a JSON object"),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, "metadata"),
    "size that does not follow": ({"a": tensor(offsets=(0, 4))}, "cannot have"),
    "reversed offsets": ({"a": tensor(offsets=(8, 0))}, "cannot have"),
    "negative offset": ({"a": tensor(offsets=(-8, 0))}, "shape and offsets"),
    "overlap": ({"a": tensor(), "b": tensor(offsets=(4, 12))}, "overlaps"),
    "the same bytes twice": ({"a": tensor(), "b": tensor()}, "overlaps"),
    "gap": ({"a": tensor(), "b": tensor(offsets=(16, 24))}, "gap"),
    "beyond the end": ({"a": tensor(), "b": tensor(offsets=(8, 16)), "c": tensor(offsets=(16, 24))}, "end at byte"),
    "huge shape": ({"a": tensor(shape=(2**40, 2**40))}, "cannot have"),
    "true as a size": ({"a": tensor(shape=(True, 2))}, "shape and offsets"),
    "dtype of half a byte": ({"a": tensor(dtype="F4")}, r"1 tensors of a dtype that is not known here: a \(F4\)"),
    "dtype of the future": ({"a": tensor(dtype="F8_E3M4")}, r"a \(F8_E3M4\)"),
    "half a character": ({"a": tensor(dtype="F8_E3M4\ud800")}, "half of a surrogate"),
    "dtype that is a list": ({"a": tensor(dtype=["F32"])}, "'a' has no dtype"),
    "name twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}', "twice"),
    "no description": ({"a": 3}, "no description"),
    "deep nesting": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "safetensors"),
}


def test_only_a_header_that_lies_is_called_unsound(tmp_path):
    path = write_raw(tmp_path / "model.safetensors", {"a": tensor(dtype="F6_E2M3")}, bytes(8))
    with pytest.raises(CheckpointError) as caught:
        read_header(path)
    assert "sound" not in caught.value.message
    assert "Download" not in caught.value.hint
    assert "bfloat16" in caught.value.hint


@pytest.mark.parametrize("name", _TYPES)
def test_every_dtype_of_whole_bytes_is_read_and_copied(tmp_path, name):
    folder = tiny.save_model(tmp_path / "m", "llama")
    tensors = load_file(folder / "model.safetensors")
    size = _TYPES[name].itemsize
    kept = torch.arange(6 * size, dtype=torch.uint8).view(_TYPES[name]).view(2, 3)
    save_file(tensors | {"extra": kept}, folder / "model.safetensors")
    entry = open_checkpoint(folder).tensors["extra"]
    assert (entry.dtype, entry.shape, entry.nbytes) == (name, (2, 3), 6 * size)
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=folder, seed=1)
    save_file(load_file(tuned / "model.safetensors") | {"extra": kept}, tuned / "model.safetensors")
    extract(str(folder), str(tuned), tmp_path / "v.safetensors")
    result = apply(str(folder), negate=[str(tmp_path / "v.safetensors")], output_dir=tmp_path / "out")
    assert result.actions.get("copied", 0) == (0 if entry.is_float else 1)
    assert oracle.load(tmp_path / "out")["extra"].view(torch.uint8).flatten().tolist() == list(range(6 * size))


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(tmp_path, case):
    table, words = HOSTILE[case]
    path = write_raw(tmp_path / "model.safetensors", table, bytes(16))
    with pytest.raises(CheckpointError, match=words) as caught:
        read_header(path)
    assert "model.safetensors" in caught.value.message


def test_absurd_header_length_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError, match="ends inside"):
        read_header(path)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 2**28))
        file.truncate(2**28 + 8)
    with pytest.raises(CheckpointError, match="absurd"):
        read_header(path)


def test_what_is_no_regular_file_is_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "loop"):
        with pytest.raises(CheckpointError):
            read_header(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.arange(4.0), "b": torch.ones(3, dtype=torch.int64)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_header(path)


_shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(["F32", "BF16", "I64", "BOOL"]), _shapes)
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_a_header_we_build_is_read_by_us_and_by_safetensors(tmp_path_factory, tensors, metadata):
    tensors.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("h") / "m.safetensors"
    header, offsets = build_header([(name, *rest) for name, rest in tensors.items()], metadata, length=500)
    entries_end = max([len(header), *(0,)])
    path.write_bytes(header)
    sizes = {"F32": 4, "BF16": 2, "I64": 8, "BOOL": 1}
    for dtype, shape in tensors.values():
        entries_end += int(torch.tensor(shape).prod().item()) * sizes[dtype] if shape else sizes[dtype]
    with path.open("r+b") as file:
        file.truncate(entries_end)
    ours = read_header(path)
    assert {entry.name: (entry.dtype, entry.shape) for entry in ours.tensors} == tensors
    assert {entry.name: entry.offset for entry in ours.tensors} == offsets
    assert ours.metadata == metadata
    assert len(header) % 8 == 0
    assert {name: tuple(value.shape) for name, value in load_file(path).items()} == {
        n: s for n, (_, s) in tensors.items()
    }


def test_open_checkpoint_of_one_file_and_of_shards(tmp_path, phi):
    sharded = tiny.save_model(tmp_path / "sharded", max_shard_size="30KB")
    one, many = open_checkpoint(phi), open_checkpoint(sharded)
    assert len(one.shards) == 1
    assert len(many.shards) > 3
    assert one.tensors.keys() == many.tensors.keys()
    assert fingerprint_model(phi) == fingerprint_model(sharded)
    assert {str(path) for path in one.sidecars} >= {"config.json", "tokenizer.json", "generation_config.json"}
    with TensorReader() as reader:
        entry = many.tensors["model.embed_tokens.weight"]
        expected = load_file(entry.path)[entry.name]
        assert bytes(reader.read(entry, 0, entry.nbytes)) == expected.numpy().tobytes()


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    checkpoint = open_checkpoint(folder)
    os.truncate(folder / "model.safetensors", 1000)
    with TensorReader() as reader, pytest.raises(CheckpointError, match="changed while it was read"):
        reader.fingerprint(checkpoint.tensors["model.embed_tokens.weight"])


def sharded_index(folder):
    path = folder / "model.safetensors.index.json"
    return path, json.loads(path.read_text())


@pytest.mark.parametrize("target", ["../evil.safetensors", "/etc/passwd", "sub/x.safetensors", "..", "x.bin", 3])
def test_an_index_that_points_outside_is_refused(tmp_path, target):
    folder = tiny.save_model(tmp_path / "m", max_shard_size="30KB")
    path, index = sharded_index(folder)
    index["weight_map"]["lm_head.weight"] = target
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="points to"):
        open_checkpoint(folder)


def test_index_and_shards_must_agree(tmp_path):
    folder = tiny.save_model(tmp_path / "m", max_shard_size="30KB")
    path, index = sharded_index(folder)
    lost = index["weight_map"].pop("model.final_layernorm.bias")
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"disagree on 1 tensors: model\.final_layernorm\.bias"):
        open_checkpoint(folder)
    index["weight_map"]["lm_head.weight"] = lost
    index["weight_map"]["ghost"] = lost
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="ghost"):
        open_checkpoint(folder)


def test_folders_that_are_no_models(tmp_path, phi):
    with pytest.raises(CheckpointError, match="not a model folder"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        open_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.safetensors") as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint.endswith(f"mv {tmp_path}/pytorch_model.safetensors {tmp_path}/model.safetensors")
    (tmp_path / "pytorch_model.safetensors").unlink()
    (tmp_path / "global_step9").mkdir()
    with pytest.raises(CheckpointError, match=r"only the state of a training .*global_step9") as caught:
        open_checkpoint(tmp_path)
    assert "zero_to_fp32.py" in caught.value.hint
    (tmp_path / "global_step9").rmdir()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match="pickled") as caught:
        open_checkpoint(tmp_path)
    assert "save_pretrained" in caught.value.hint
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="adapter"):
        open_checkpoint(adapter)


def test_quantised_and_ambiguous_models_are_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError, match="gptq"):
        open_checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="both"):
        open_checkpoint(folder)


def test_a_tensor_is_the_same_when_its_file_has_been_touched(tmp_path):
    path = write_raw(tmp_path / "m.safetensors", {"a": tensor()}, bytes(8))
    before = read_header(path).tensors[0]
    os.utime(path, (1, 1))
    after = read_header(path).tensors[0]
    assert (after == before, after.state == before.state) == (True, False)
    assert str(before.state) not in repr(before)  # errors name tensors, not the inodes of their files


TRAVEL = [
    "modeling_own.py",
    "LICENSE",
    "extra/notes.txt",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt.gz",
    "README.pt.md",
    "chat_template.jinja",
    "special.tiktoken",
    "data.json",
    "onnx/config.json",
    "my.data",
    "model.onnx.md/notes.txt",
    "configuration.params.py",
    "global_steps.txt",
]
LEFT_OUT = [
    "pytorch_model.bin",
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "onnx/model.onnx_data_1",
    "onnx/model.onnx.data",
    "onnx/weights.data",
    "onnx/onnx__MatMul_12",
    "onnx/model.layers.0.weight",
    "model.safetensors.index",
    "model.safetensors.bak",
    "model.safetensors~",
    "old.safetensors",
    "pytorch_model.bin.index.json",
    "model.tflite",
    "model.mlmodel",
    "model.pdparams",
    "inference.pdiparams",
    "mx.params",
    "table.npy",
    "all.npz",
    "model.nemo",
    "m.gguf",
    "m.gguf.part",
    "MODEL.BIN",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state_0.pth",
    "training_args.bin",
    "fsdp/__0_0.distcp",
    "saved/variables/variables.data-00000-of-00001",
    "saved/variables/variables.index",
    "saved/saved_model.pb",
    "model.tar",
    "model.tar.gz",
    "model.zst",
    "model.zip",
    "flax_model.msgpack",
    "tf_model.h5",
    "rust_model.ot",
    "a.pt2", "a.pte", "a.ptl", "a.ckpt", "a.pkl", "a.pickle", "a.joblib", "a.jit", "a.torchscript", "a.mar", "a.hdf5",
    "a.keras", "a.task", "a.litertlm", "a.pdmodel", "a.pdopt", "a.ort", "a.mnn", "a.engine", "a.plan", "a.trt",
    "a.ggml", "a.llamafile", "a.weights", "a.tgz", "a.7z", "a.rar",
]  # fmt: skip
WHOLE = {"global_step9": "global_step9/latest", "a.mlpackage": "a.mlpackage/Data/model.txt"}


def test_other_weights_are_left_out_and_code_travels(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    before = {str(path) for path in open_checkpoint(folder).sidecars}
    for name in (*TRAVEL, *LEFT_OUT, *WHOLE.values(), ".git/config"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    checkpoint = open_checkpoint(folder)
    assert {str(path) for path in checkpoint.sidecars} == before | set(TRAVEL)
    assert {str(path) for path in checkpoint.left_out} == {*LEFT_OUT, *WHOLE}
    assert len(checkpoint.left_out) == len(LEFT_OUT) + len(WHOLE)


@pytest.mark.parametrize(
    "table", [{"a\ud800": tensor()}, {"__metadata__": {"\udfff": ""}}, {"__metadata__": {"a": "x\udc00"}}]
)
@pytest.mark.parametrize("command", ["extract", "apply", "apply --dry-run", "verify", "undo"])
def test_half_a_character_in_a_model_is_refused(tmp_path, phi, phi_tuned, table, command):
    extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors")
    folder = tmp_path / "m"
    folder.mkdir()
    write_raw(folder / "model.safetensors", table, bytes(8 if "__metadata__" not in table else 0))
    (folder / "config.json").write_text("{}")
    (folder / "taskarith.json").write_text('{"kind": "edit", "tensors": {}}')
    more = {"extract": [phi], "apply": ["--negate", tmp_path / "v.safetensors"], "verify": [], "undo": []}
    name, *flags = command.split()
    output = [] if name == "verify" else ["-o", tmp_path / "out"]
    done = CliRunner().invoke(app, [str(one) for one in (name, folder, *more[name], *output, *flags)])
    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "not Unicode" in done.stderr or name == "undo"


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_half_a_character_in_a_vector_is_refused(tmp_path, phi, phi_tuned, flags):
    path = extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors").path
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    table = json.loads(raw[8 : 8 + length])
    table["lm_head.\ud800"] = table.pop("lm_head.bias")
    write_raw(path, table, raw[8 + length :])
    applied = ["apply", str(phi), "--add", str(path), "-o", str(tmp_path / "out")]
    for words in (["verify", str(path)], ["inspect", str(path)], ["diff", str(path), str(path)], applied):
        done = CliRunner().invoke(app, [*words, *flags])
        assert (done.exit_code, type(done.exception)) == (1, SystemExit)
        assert "lm_head.\\ud800" in done.stderr


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_half_a_character_in_a_sidecar_is_refused(tmp_path, name):
    folder = tiny.save_model(tmp_path / "m", max_shard_size="30KB")
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(value | {"x": "\ud800"}))
    with pytest.raises(CheckpointError, match=r"cannot read .*ud800"):
        open_checkpoint(folder)


def test_hub_ids_are_found_in_the_local_cache(tmp_path, monkeypatch, phi):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--phi"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(phi)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    found = resolve_model("org/phi")
    assert (found.name, found.revision) == ("org/phi", commit)
    assert open_checkpoint(found.path).tensors
    assert resolve_model(f"org/phi@{commit}").path == found.path
    assert found.recorded_name == "org/phi"
    with pytest.raises(CheckpointError, match="cannot be reached"):
        resolve_model("org/other")


@pytest.mark.parametrize("name", ["no/such/folder", "absent", "./absent", "/absent/model"])
def test_a_name_that_is_no_model(name):
    with pytest.raises(CheckpointError, match="there is no model folder"):
        resolve_model(name)


def test_gguf_is_recognised_by_its_content(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="2 GGUF files"):
        resolve_model(str(tmp_path))
    (tmp_path / "b.gguf").write_bytes(b"what")
    with pytest.raises(CheckpointError, match="nor a GGUF"):
        resolve_model(str(tmp_path / "b.gguf"))
