"""Model folders: what is sound is opened, what lies is refused."""

from __future__ import annotations

import json

import pytest
import tiny
from headers import tensor, write_raw
from safetensors.torch import load_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import fingerprint_model, open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.cli.main import app
from taskarith.errors import CheckpointError
from taskarith.vectors.extract import extract


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
    (tmp_path / "empty").mkdir()
    write_raw(tmp_path / "empty/model.safetensors", {})
    with pytest.raises(CheckpointError, match="does not hold any tensor"):
        open_checkpoint(tmp_path / "empty")


def test_quantised_and_ambiguous_models_are_refused(tmp_path):
    folder = tiny.save_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(CheckpointError, match="gptq"):
        open_checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="both"):
        open_checkpoint(folder)


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
