"""Files of strangers: a reduced run of ``make fuzz``, and each kind of thing that it found."""

import contextlib
import itertools
import json
import os
import re
import sqlite3
from dataclasses import replace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
import zstandard
from safetensors.numpy import load_file, save_file

from benchmarks.robustness import sound
from benchmarks.robustness.__main__ import main
from benchmarks.robustness.readers import READERS
from benchmarks.robustness.runner import Reader, fuzz
from taskarith.architecture.lookup import architectures_of
from taskarith.checkpoints.checkpoint import open_checkpoint, read_json
from taskarith.checkpoints.gguf_header import check_gguf
from taskarith.checkpoints.header import build_header, read_header
from taskarith.checkpoints.provenance import record_is_sealed
from taskarith.checkpoints.resolve import resolve_model
from taskarith.data.load import load_data
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import (
    CheckpointError,
    DataError,
    OutputError,
    TaskarithError,
    UsageError,
    VectorError,
    name_some,
    readable,
)
from taskarith.evaluation.models import open_model
from taskarith.evaluation.score import score
from taskarith.models.load import load_model
from taskarith.progress import SILENT
from taskarith.spec import OperandRef, finite_number, parse_alphas, parse_model, parse_operand, parse_size
from taskarith.sweeps.optuna_search import finished_trials, load_optuna, open_study
from taskarith.untrusted import MalformedError, parse_json, parse_yaml, read_bytes
from taskarith.vectors.codecs.block_file import join_parts
from taskarith.vectors.codecs.quantised import _QuantisedBlock
from taskarith.vectors.extract import extract
from taskarith.vectors.lora.read import read_adapter
from taskarith.vectors.open import choose_base


@pytest.mark.parametrize("name", READERS)
def test_readers_give_results_or_errors_of_their_own(tmp_path, name, monkeypatch):
    monkeypatch.setenv("TASKARITH_CACHE", os.environ.get("TASKARITH_CACHE", ""))  # which a run sets for itself
    tally = fuzz(replace(READERS[name], share=10), 30, seed=7, folder=tmp_path / "fuzz")
    odd = {what: tally.first[what] for what in tally.odd if not what.endswith(" s")}  # tests are not timed
    assert not odd
    assert tally.read + tally.refused == tally.cases
    assert tally.whole == (3 if READERS[name].door else 30)
    assert tally.refused


def test_what_a_case_leaves_is_put_back(tmp_path):
    turn = itertools.count()

    def leave(folder):
        names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
        assert names == ["a", "a/b", "a/b/c", "d"]
        assert [(folder / name).read_text() for name in ("a/b/c", "d")] == ["c", "d"]
        for path in ("a/x/y", "z"):
            (folder / path).mkdir(parents=True)
        if next(turn) % 2:
            (folder / "a/b/c").unlink()
            (folder / "a/b").rmdir()
            (folder / "a/b").symlink_to(folder.parent / "sound/a")
        else:
            (folder / "a/b/c").write_text("C")
        (folder / "d").unlink()
        (folder / "d").mkdir()

    def prepare(folder):
        (folder / "a/b").mkdir(parents=True)
        (folder / "a/b/c").write_text("c")
        (folder / "d").write_text("d")

    tally = fuzz(Reader("r", prepare, lambda *_: None, leave), 20, seed=1, folder=tmp_path / "fuzz")
    assert (tally.read, dict(tally.odd)) == (20, {})
    assert (tmp_path / "fuzz/sound/a/b/c").read_text() == "c"


def test_a_fuzzing_run_finds_what_is_odd(tmp_path):
    reader = READERS["specs"]
    broken = replace(reader, call=lambda folder: {}[0] if (folder / "changed").exists() else None)
    tally = fuzz(broken, 5, seed=1, folder=tmp_path / "fuzz")
    assert (tally.read, dict(tally.odd)) == (0, {"KeyError": 5})


@pytest.mark.parametrize(
    "form", [{"top_k": 0.5}, {"rows": 0.5}, {"bits": 8}, {"bits": 4}, {"bits": 1}, {"exact": True}]
)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
def test_empty_tensors_are_extracted_in_every_form(tmp_path, form, shape):
    base, tuned = sound.make_model(tmp_path / "base"), sound.make_model(tmp_path / "tuned", seed=1)
    for folder in (base, tuned):
        tensors = load_file(folder / "model.safetensors") | {"empty": np.zeros(shape, np.float32)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert extract(str(base), str(tuned), tmp_path / "v.safetensors", **form).path.exists()


@pytest.mark.parametrize("text", ["0:1:1e-12", "0:1e300:1", "1_000", "0:1:0_1", "٣", "0:1", "0:1:0:1"])
def test_lists_of_coefficients_have_bounds(text):
    with pytest.raises(UsageError, match="alpha"):
        parse_alphas(text)


def test_numbers_are_written_with_digits_alone():
    with pytest.raises(UsageError, match="'1_000' of v"):
        parse_operand("v:1_000")
    with pytest.raises(UsageError, match="1_0GB"):
        parse_size("1_0GB")
    assert [finite_number(one) for one in ("1_0", "٣", "1e3")] == [None, None, 1000.0]


@pytest.mark.parametrize("parse", [parse_model, parse_operand])
def test_names_that_are_not_unicode_are_refused(parse):
    with pytest.raises(UsageError, match="not Unicode"):
        parse(os.fsdecode(b"caf\xe9"))
    assert parse("x" * 5000).name == "x" * 5000  # longer than a path can be


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 5000 + "]" * 5000, "nested"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested"),
        ('{"\\ud800": 1}', "half of a surrogate"),
        ('["a\\udfff"]', "half of a surrogate"),
        ("[1" + "0" * 400 + "]", "larger than any float"),
        ("[1" + "0" * 5000 + "]", "4300 digits"),
        (b'"\xff"', "not UTF-8"),
        ("{", "Expecting"),
        ('{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "the key 'a' occurs twice"),
        ("{" + ", ".join(f'"{number % 99_999}": 0' for number in range(100_000)) + "}", "the key '0' occurs twice"),
    ],
)
def test_json_that_programs_stumble_over_is_malformed(text, words):
    with pytest.raises(MalformedError, match=words):
        parse_json(text)


_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n" for before, after in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_BOMB, "values"),
        ("&a [*a]", "nested"),
        ("- " * 50_000, "nested"),
        ("[" + "0," * 50_000 + "0]", "long"),
        ("!!python/object:os.system x", "constructor"),
        ("a: 2001-99-99", "month"),
        ("a: 1\nb: 2\na: 1", "the key 'a' occurs twice"),
        ("- {x: {1: a, 1: b}}", "the key '1' occurs twice"),
        *((f"a: {number}", "plain digits") for number in ("010", "0b1", "1_000", "1.0_0", "1:30", "-1:30.5")),
    ],
)
def test_yaml_that_programs_stumble_over_is_malformed(text, words):
    with pytest.raises(MalformedError, match=words):
        parse_yaml(text)


def test_yaml_of_plain_numbers_and_merged_maps_is_read():
    text = "a: &a {b: 1, c: -0.5}\nd: {<<: *a, b: 2}\ne: [0, .5, 1e5, '010', 0.1, +5]"
    assert parse_yaml(text) == {
        "a": {"b": 1, "c": -0.5},
        "d": {"b": 2, "c": -0.5},
        "e": [0, 0.5, "1e5", "010", 0.1, 5],
    }


def _pipe(path):
    os.mkfifo(path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make",
    [_pipe, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path), lambda path: path.mkdir()],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_what_is_not_a_file_is_not_waited_for(tmp_path, make, name):
    folder = sound.make_model(tmp_path / "m", shards=2 if "index" in name else 1)
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)
    for read in (read_bytes, read_json, read_header, lambda path: load_data(str(path))):
        with pytest.raises((TaskarithError, MalformedError)):
            read(folder / name)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("name", ["file:config.json", "0:lm_head.weight"])
def test_a_patch_does_not_unpack_to_more_than_there_is(tmp_path, name, sized):
    sound.make_edit(tmp_path)
    path = tmp_path / "edited/taskarith-undo.safetensors"
    data, header = path.read_bytes(), read_header(path)
    blobs = {one.name: data[one.offset : one.offset + one.nbytes] for one in header.tensors}
    assert name in blobs
    blobs[name] = zstandard.ZstdCompressor(write_content_size=sized).compress(bytes(200 << 20))
    start, _ = build_header([(key, "U8", (len(blob),)) for key, blob in blobs.items()], header.metadata)
    path.write_bytes(start + b"".join(blobs.values()))
    with pytest.raises(CheckpointError, match="more than"):
        undo(tmp_path / "edited", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_an_error_quotes_is_cut_and_can_be_printed():
    error = TaskarithError(f"name {'x' * 10**6}\x1b[31m\ud800\u202e\n", "y" * 10**6)
    assert len(str(error)) < 2500
    assert str(error).encode()
    assert readable("a\x1b\ud800\u202eé") == "a\\x1b\\ud800\\u202eé"
    assert len(name_some(["x" * 10**6] * 9)) < 1000
    assert len(readable("\udcff" * 10**6)) <= 1000  # what is escaped grows


@pytest.mark.parametrize("kind", sorted(pyarrow.ArrowException.__subclasses__(), key=str))
def test_whatever_parquet_holds_that_arrow_cannot_read_is_an_error_of_the_data(tmp_path, monkeypatch, kind):
    def refuse(*_):
        raise kind("not implemented")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", refuse)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(DataError, match=r"a.parquet is not a valid parquet file: not implemented"):
        load_data(str(tmp_path / "a.parquet"))


def test_records_may_lack_any_value(tmp_path):
    sound.make_records(tmp_path / "records.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    first = {line["kind"]: number for number, line in reversed(list(enumerate(lines)))}
    for number in first.values():
        for key in lines[number]:
            for more in ({}, {key: None}):
                changed = {name: value for name, value in lines[number].items() if name != key} | more
                rows = [*lines[:number], changed, *lines[number + 1 :]]
                (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
                with contextlib.suppress(TaskarithError):
                    assert score([tmp_path / "r.jsonl"], reference="retain").models


@pytest.mark.parametrize("value", [1e308, -1e308])
def test_numbers_that_overflow_are_missing(tmp_path, value):
    sound.make_records(tmp_path / "records.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    numbers = {(line["kind"], key) for line in lines for key in line if _enlarged(line, key, value)}
    assert len(numbers) > 5
    for kind, key in numbers:
        rows = [line | _enlarged(line, key, value) if line["kind"] == kind else line for line in lines]
        (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
        with contextlib.suppress(DataError):
            assert score([tmp_path / "r.jsonl"], reference="retain").models


def _enlarged(line, key, value):
    found = line.get(key)
    if isinstance(found, list):
        return {key: [value] * len(found)}
    return {key: value} if isinstance(found, float) else {}


@pytest.mark.parametrize("value", [None, -1, ["fp8"], {"a": 1}, [4, None]])
def test_values_of_a_quantised_configuration_may_be_anything(tmp_path, value):
    said = {"quant_method": "fp8", "weight_block_size": [4, 4], "scale_fmt": None}
    sound.make_float8(tmp_path / "m", quantization_config=said)
    path = tmp_path / "m/config.json"
    config = json.loads(path.read_text())
    changes = [{"quantization_config": said | {key: value}} for key in said]
    for changed in ({"quantization_config": value}, {"text_config": value}, *changes):
        path.write_text(json.dumps(config | changed))
        with contextlib.suppress(CheckpointError):
            assert open_checkpoint(tmp_path / "m").tensors


@pytest.mark.parametrize("bits", [1, 4, 8])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, np.finfo("f4").max, -1])
def test_scales_of_a_quantised_vector_may_be_any_bits(bits, scale):
    data = memoryview(join_parts([np.full(1, scale, "<f4").tobytes(), bytes([130]) * bits]))
    with contextlib.nullcontext() if np.isfinite(scale) else pytest.raises(ValueError, match="a scale is not finite"):
        _QuantisedBlock(data, 0, 8, 8, bits).read(0, memoryview(bytearray(32)), None)


@pytest.mark.parametrize("pattern", ["(", "[" * 2000, "(" * 5000 + ")" * 5000, "[[a]", "a{99999999999}", "\\p", "a**"])
@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_patterns_of_strangers_need_not_be_regular_expressions(tmp_path, key, pattern):
    path = sound.make_adapter(tmp_path / "a") / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: {pattern: 1}}))
    with pytest.raises(VectorError, match="pattern"):
        read_adapter(tmp_path / "a")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".safetensors", "a/" + "x" * 300, "/" + "x/" * 3000, "a\0b"])
def test_what_cannot_be_a_path_is_not_a_vector(name):
    with pytest.raises(TaskarithError, match="there is no"):
        choose_base(None, [OperandRef(name, 1.0)], "Name the base.")


@pytest.mark.parametrize("make", [_pipe, lambda path: path.mkdir(), lambda path: path.symlink_to("absent")])
def test_what_is_not_a_record_is_not_asked_for_its_digest(tmp_path, make):
    make(tmp_path / "taskarith.json")
    with pytest.raises(CheckpointError, match=r"cannot read .*taskarith\.json"):
        record_is_sealed(tmp_path)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("data", [b"\xff", b'{"added_tokens": ' + b"[" * 100_000, b"{}", b""])
def test_damaged_files_of_a_tokenizer_are_refused_or_passed_over(tmp_path, name, data):
    base, tuned = (str(sound.make_model(tmp_path / one, seed=one == "tuned")) for one in ("base", "tuned"))
    (tmp_path / "tuned" / name).write_bytes(data)
    for number, taken in enumerate(({}, {"tokenizer": tuned}, {"chat_template": tuned})):
        with contextlib.suppress(TaskarithError):
            apply(base, add=[f"{tuned}@@{base}"], output_dir=tmp_path / str(number), **taken)
    with contextlib.suppress(TaskarithError):
        assert open_model(tuned, torch.device("cpu"), None, SILENT).model


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_configuration_of_more_layers_than_tensors_is_refused(tmp_path, kind):
    folder = sound.make_model(tmp_path / "m", model_type=kind, num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match="has 1000000000 layers, but its files have only 12 tensors"):
        load_model(folder, torch.float32)
    assert "1000000000 layers" in next(architectures_of(open_checkpoint(folder))).remark


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_a_configuration_of_more_weights_than_the_files_hold_takes_no_memory(tmp_path, kind, key):
    folder = sound.make_model(tmp_path / "m", model_type=kind, **{key: 1 << 20})
    with pytest.raises(CheckpointError, match=r"describes a model of .* weights, which do not fit into the .* bytes"):
        load_model(folder, torch.float32)


@pytest.mark.parametrize(
    ("before", "put", "words"),
    [
        (b"GGUF\x03\0\0\0", b"\xff" * 8, "claims more than"),  # tensors
        (b"llama.block_count\4\0\0\0", b"\xff\xff\xff\x7f", "2147483647 layers, and has 12 tensors"),
        (b"llama.block_coun", b"x", "block_count is missing"),
        (b"llama.embedding_lengt", b"x", "embedding_length is missing"),
        (b"\x16" + bytes(7), b"x", "embedding_length is missing"),  # of another architecture
        (b"llama.embedding_length\4\0\0\0", b"\xff\xff\xff\x7f", "embedding_length is 2147483647"),
        (b"llama.feed_forward_length\4\0\0\0", b"\xff\xff\xff\x7f", "feed_forward_length is 2147483647"),
        (b"llama.vocab_size\4\0\0\0", b"\xff\xff\xff\x7f", "vocab_size is 2147483647"),
        (b"llama.attention.head_count_kv\4\0\0\0", b"\xff\xff\xff\x7f", "head_count_kv is 2147483647"),
        (b"tokenizer.ggml.tokens", b"\x09\0\0\0\x08\0\0\0" + b"\xff" * 8, "claims more than"),  # strings of an array
        (b"tokenizer.ggml.token_type", b"\x09\0\0\0\x05\0\0\0" + b"\xff" * 8, "claims more than"),
        (b"tokenizer.ggml.model", b"\x63\0\0\0", "unknown type 99"),
        (b"output_norm.weight\1\0\0\0", b"\xff" * 8, "claim 1844674407370955"),
        (b"output_norm.weight", b"\x63\0\0\0", "99 dimensions"),
    ],
)
def test_gguf_that_claims_more_than_it_holds_is_refused(tmp_path, before, put, words):
    path = tmp_path / "m.gguf"
    sound.make_gguf(path)
    check_gguf(path)
    data = path.read_bytes()
    place = data.index(before) + len(before)
    path.write_bytes(data[:place] + put + data[place + len(put) :])
    with pytest.raises(CheckpointError, match=words):
        resolve_model(str(path))


def test_gguf_that_lacks_a_weight_is_refused(tmp_path):
    path = tmp_path / "m.gguf"
    sound.make_gguf(path)
    path.write_bytes(path.read_bytes().replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"))
    with pytest.raises(CheckpointError, match=r"it lacks 1 weights, .*: model.layers.0.self_attn.q_proj.weight"):
        resolve_model(str(path))


@pytest.mark.parametrize("value", ["1" + "0" * 400, '"x"', "null", "[" * 400 + "]" * 400, "{}"])
@pytest.mark.parametrize("key", ["params", "attributes"])
def test_trials_of_strangers_are_refused(tmp_path, key, value):
    READERS["storage"].prepare(tmp_path)
    optuna, path = load_optuna(), tmp_path / ("trials.log" if key == "params" else "trials.db")
    if key == "params":
        text, count = re.subn(
            r'"param_value_internal": *[-0-9.e]+', f'"param_value_internal": {value}', path.read_text()
        )
        path.write_text(text)
    else:
        with contextlib.closing(sqlite3.connect(path)) as base:
            count = base.execute("update trial_user_attributes set value_json = ?", [value]).rowcount
            base.commit()
    assert count
    with pytest.raises(OutputError):
        finished_trials(
            optuna, open_study(optuna, f"sqlite:///{path}" if path.suffix == ".db" else str(path), "study"), ["1 v"]
        )


def test_the_command_writes_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TASKARITH_CACHE", os.environ.get("TASKARITH_CACHE", ""))
    assert main(["--only", "specs", "tofu", "--cases", "20", "--table", str(tmp_path / "t.md")]) == 0
    assert "| specs | 20 |" in (tmp_path / "t.md").read_text()
    assert "| tofu | 20 |" in capsys.readouterr().out
    assert main(["--only", "tofu", "--cases", "10", "--table", str(tmp_path / "t.md")]) == 0
    assert main(["--only", "tofu", "--cases", "1", "--start", "3", "--table", str(tmp_path / "t.md")]) == 0
    rows = [line.split(" | ")[:2] for line in (tmp_path / "t.md").read_text().splitlines() if line.startswith("| ")]
    assert rows[1:] == [["| specs", "20"], ["| tofu", "10"]]
