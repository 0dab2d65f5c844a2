"""Models stored as float8 with scales: dequantised, edited, quantised again, and the error told."""

from __future__ import annotations

import json
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from damage import files
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.header import read_header
from taskarith.cli.main import app
from taskarith.edit.apply import apply
from taskarith.edit.undo import undo
from taskarith.errors import CheckpointError, MismatchError, UsageError, VectorError
from taskarith.inspection.verify import verify
from taskarith.vectors.extract import extract

POWERS = [torch.float8_e8m0fnu] if hasattr(torch, "float8_e8m0fnu") else []  # torch 2.6 does not have it
STYLES = {
    "blocks": ({"quant_method": "fp8", "weight_block_size": [16, 24]}, "weight_scale_inv", torch.float32),
    "tensor": ({"quant_method": "fp8"}, "weight_scale", torch.bfloat16),
    "rows": ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "weight_scale", torch.float32),
}


def spread(scale, shape, style):
    """Give every element of a matrix its scale."""
    scale = scale.double()
    if style == "blocks":
        scale = scale.repeat_interleave(16, 0).repeat_interleave(24, 1)[: shape[0], : shape[1]]
    return scale.expand(shape)


def quantise(folder, style):
    """Turn the linear layers of a model folder into float8."""
    config, suffix, dtype = STYLES[style]
    tensors = {}
    for name, values in load_file(folder / "model.safetensors").items():
        if "proj" not in name:
            tensors[name] = values
            continue
        if style == "blocks":
            rows, columns = -(-values.shape[0] // 16), -(-values.shape[1] // 24)
            padded = torch.zeros(rows * 16, columns * 24)
            padded[: values.shape[0], : values.shape[1]] = values
            largest = padded.view(rows, 16, columns, 24).abs().amax(dim=(1, 3))
        else:
            largest = values.abs().amax(dim=1, keepdim=True) if style == "rows" else values.abs().amax().view(1)
        scale = (largest / 448).to(dtype)
        scaled = (values.double() / spread(scale, values.shape, style)).clamp(-448, 448)
        tensors[name] = scaled.to(torch.float8_e4m3fn)
        tensors[name.replace("weight", suffix)] = scale
    save_file(tensors, folder / "model.safetensors")
    whole = json.loads((folder / "config.json").read_text()) | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(whole))
    return folder


def dequantise(folder, style):
    tensors, suffix = load_file(folder / "model.safetensors"), STYLES[style][1]
    return {
        name: values.double() * spread(tensors[name.replace("weight", suffix)], values.shape, style)
        if values.dtype == torch.float8_e4m3fn
        else values
        for name, values in tensors.items()
    }


@pytest.fixture(params=STYLES)
def small(request, tmp_path):
    """A float8 model, and a vector from the models before quantisation."""
    base = tiny.save_model(tmp_path / "base", "llama")
    tuned = tiny.save_model(tmp_path / "tuned", "llama", nudge_of=base, seed=1)
    vector = tmp_path / "v.safetensors"
    extract(str(base), str(tuned), vector)
    return request.param, quantise(base, request.param), str(vector)


def test_a_damaged_vector_is_refused(tmp_path, small):
    _, base, vector = small
    entry = next(one for one in read_header(Path(vector)).tensors if one.name.endswith("q_proj.weight"))
    data = bytearray(Path(vector).read_bytes())
    data[entry.offset + 9] ^= 1
    Path(vector).write_bytes(data)
    with pytest.raises(VectorError, match=r"q_proj\.weight .* is not what was written"):
        apply(str(base), negate=[vector], output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_edit_is_as_close_as_float8_can_be(tmp_path, small):
    style, base, vector = small
    result = apply(str(base), negate=[f"{vector}:0.7"], output_dir=tmp_path / "out")
    assert result.actions["requantised"] == result.actions["rescaled"] == 14
    assert any("float8 weights were quantised again" in remark for remark in result.remarks)
    before, after = dequantise(base, style), dequantise(tmp_path / "out", style)
    deltas, record = load_file(vector), json.loads((tmp_path / "out/taskarith.json").read_text())["tensors"]
    for name, values in before.items():
        if values.dtype != torch.float64:
            if name in deltas:
                assert torch.equal(after[name], oracle.edit(values, [deltas[name]], [-0.7], values.dtype))
            continue
        exact = values - 0.7 * deltas[name].double()
        error = ((after[name] - exact).norm() / exact.norm()).item()
        assert error == pytest.approx(record[name]["error"], rel=1e-9)
        assert error < 0.04  # half a unit in the last of four places, 2^-4 / sqrt(3), is .036
    assert verify(tmp_path / "out").is_sound


def test_what_is_not_edited_keeps_its_bits(tmp_path, small):
    _, base, vector = small
    nothing = apply(str(base), negate=[vector], alpha=0, output_dir=tmp_path / "out")
    assert set(nothing.actions) == {"copied"}
    assert oracle.differing(oracle.load(tmp_path / "out"), oracle.load(base)) == []
    zero = {name: torch.zeros_like(values) for name, values in load_file(vector).items()}
    from safetensors import safe_open

    with safe_open(vector, "pt") as file:
        save_file(zero, tmp_path / "zero.safetensors", metadata=file.metadata() | {"deltas": "{}"})
    apply(str(base), add=[str(tmp_path / "zero.safetensors")], output_dir=tmp_path / "same")
    assert oracle.differing(oracle.load(tmp_path / "same"), oracle.load(base)) == []


def test_values_that_outgrow_their_scale_get_a_larger_one(tmp_path, small):
    style, base, vector = small
    apply(str(base), add=[f"{vector}:300"], output_dir=tmp_path / "out")
    before, after, deltas = dequantise(base, style), dequantise(tmp_path / "out", style), load_file(vector)
    grown = 0
    for name, values in before.items():
        if values.dtype == torch.float64:
            exact = values + 300 * deltas[name].double()
            assert ((after[name] - exact).norm() / exact.norm()).item() < 0.04
            grown += int(exact.abs().max() > 1.5 * values.abs().max())
    assert grown == 14


def test_no_chunk_changes_a_bit_and_the_way_back_is_exact(tmp_path, small, monkeypatch):
    _, base, vector = small
    one = apply(str(base), negate=[vector], output_dir=tmp_path / "one", keep_undo=True)
    two = apply(str(base), negate=[vector], output_dir=tmp_path / "two", jobs=2, max_shard_size=20_000)
    assert one.fingerprint == two.fingerprint
    undo(tmp_path / "one", tmp_path / "back")
    assert files(tmp_path / "back") == files(base)


def test_what_cannot_be_done_with_float8_is_refused(tmp_path, small):
    _, base, vector = small
    with pytest.raises(UsageError, match="float8"):
        apply(str(base), negate=[vector], dtype="bfloat16", output_dir=tmp_path / "out")
    with pytest.raises(MismatchError, match="before quantisation"):
        extract(str(base), str(tmp_path / "tuned"), tmp_path / "w.safetensors")
    done = CliRunner().invoke(app, ["apply", str(base), "--add", f"{vector}:1e40", "-o", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "not finite" in done.stderr
    assert "lower the coefficient" in done.stderr
    assert "--dtype" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8"])
def test_other_quantisations_and_float8_without_scales_are_refused(tmp_path, method):
    base = tiny.save_model(tmp_path / "base", "llama")
    if method == "fp8":
        tensors = load_file(quantise(base, "blocks") / "model.safetensors")
        save_file({name: t for name, t in tensors.items() if "0.self_attn" not in name or "scale" not in name},
                  base / "model.safetensors")  # fmt: skip
    else:
        whole = json.loads((base / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
        (base / "config.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="no scales" if method == "fp8" else method) as caught:
        open_checkpoint(base)
    assert caught.value.hint


Q = "model.layers.0.self_attn.q_proj.weight"


def change(folder, style, how):
    """Change one float8 weight and its scales, given as bytes and as numbers; return what it means then."""
    path = folder / "model.safetensors"
    tensors, scale = load_file(path), Q.replace("weight", STYLES[style][1])
    codes, scales = tensors[Q].view(torch.uint8), tensors[scale]
    tensors[scale] = changed if (changed := how(codes, scales)) is not None else scales
    save_file(tensors, path)
    return dequantise(folder, style)[Q]


def zero_block(codes, scales):
    """Write a block of zeros as quantisers do that divide by the largest value: scale 0."""
    codes[:16, :24] = 0
    codes[0] = 0
    scales.view(-1)[0] = 0


def zero_tensor(codes, scales):
    codes.zero_()
    scales.zero_()


def negative_scale(codes, scales):
    scales.neg_()


def tiny_scale(codes, scales):
    scales.fill_(1e-40)


def half_scale(codes, scales):
    """Scales that float16 holds as its least number only, which edited values outgrow by little."""
    return torch.full_like(scales, 6e-8, dtype=torch.float16)


def half_zero(codes, scales):
    return torch.zeros_like(scales, dtype=torch.float16)


ODD = [zero_block, zero_tensor, negative_scale, tiny_scale, half_scale, half_zero]


@pytest.mark.parametrize("how", ODD)
@pytest.mark.parametrize("coefficient", [0.7, 1e-5])
def test_odd_scales_are_edited_like_any_other(tmp_path, small, how, coefficient):
    style, base, vector = small
    before = change(base, style, how)
    apply(str(base), negate=[f"{vector}:{coefficient}"], output_dir=tmp_path / "out")
    after, stored = dequantise(tmp_path / "out", style)[Q], load_file(tmp_path / "out/model.safetensors")
    exact = before - coefficient * load_file(vector)[Q].double()
    scale = spread(stored[Q.replace("weight", STYLES[style][1])], exact.shape, style)
    assert after.isfinite().all()
    assert exact.abs().max() > 0
    assert ((after - exact).abs() <= exact.abs() / 16 + scale.abs() / 1024 + 1e-30).all()
    assert verify(tmp_path / "out").is_sound


@pytest.mark.parametrize("how", ODD)
def test_odd_scales_that_are_not_edited_keep_their_bits(tmp_path, small, how):
    style, base, vector = small

    def change_more(codes, scales):
        found = how(codes, scales)
        if how is zero_block:
            codes[:2, :3] = torch.tensor([[3, 128, 126], [255 - 128 - 1, 129, 7]], dtype=torch.uint8)
        return found

    change(base, style, change_more)
    from safetensors import safe_open

    with safe_open(vector, "pt") as file:
        metadata = file.metadata() | {"deltas": "{}"}
    save_file({name: torch.zeros_like(t) for name, t in load_file(vector).items()}, tmp_path / "z", metadata=metadata)
    (tmp_path / "z").rename(tmp_path / "zero.safetensors")
    apply(str(base), add=[str(tmp_path / "zero.safetensors")], output_dir=tmp_path / "same")
    assert oracle.differing(oracle.load(tmp_path / "same"), oracle.load(base)) == []


@pytest.mark.parametrize("dtype", [*POWERS, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("coefficient", [0.7, 300])
def test_scales_that_are_powers_of_two_stay_so(tmp_path, small, dtype, coefficient):
    style, base, vector = small
    config, tensors = json.loads((base / "config.json").read_text()), load_file(base / "model.safetensors")
    if dtype not in POWERS:
        config["quantization_config"]["scale_fmt"] = "ue8m0"
    for name in [name for name in tensors if "scale" in name]:
        tensors[name] = torch.exp2(torch.ceil(torch.log2(tensors[name].float()))).to(dtype)
    (base / "config.json").write_text(json.dumps(config))
    save_file(tensors, base / "model.safetensors")
    apply(str(base), add=[f"{vector}:{coefficient}"], output_dir=tmp_path / "out", keep_undo=True)
    before, after, deltas = dequantise(base, style), dequantise(tmp_path / "out", style), load_file(vector)
    grown = 0
    for name, values in before.items():
        if values.dtype == torch.float64:
            exact = values + coefficient * deltas[name].double()
            assert ((after[name] - exact).norm() / exact.norm()).item() < 0.04
            grown += int(exact.abs().max() > 3 * values.abs().max())
        elif "scale" in name:
            assert after[name].dtype == dtype
            assert (torch.frexp(after[name].float()).mantissa == 0.5).all()
    assert (grown == 14) == (coefficient == 300)
    assert verify(tmp_path / "out").is_sound
    undo(tmp_path / "out", tmp_path / "back")
    assert files(tmp_path / "back") == files(base)


FAULTS = {  # which of the two, the number, and what is said
    "a value is NaN": (0, 127, "q_proj.weight in .* has float8 values"),
    "a value is -NaN": (0, 255, "q_proj.weight in .* has float8 values"),
    "a scale is NaN": (1, torch.nan, "q_proj.weight_scale.* has scales"),
    "a scale is infinite": (1, -torch.inf, "q_proj.weight_scale.* has scales"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, small, fault):
    style, base, vector = small
    which, number, words = FAULTS[fault]

    def put(*sides):
        sides[which].view(-1)[-1] = number

    change(base, style, put)
    with pytest.raises(MismatchError, match=words) as caught:
        apply(str(base), negate=[vector], output_dir=tmp_path / "out")
    assert "not finite" in caught.value.message
    assert not (tmp_path / "out").exists()


def strip(config, tensors):
    del config["quantization_config"]


def as_dtype(dtype):
    def cast(config, tensors):
        for name in [name for name in tensors if "scale" in name]:
            tensors[name] = tensors[name].float().to(getattr(torch, dtype))

    return cast


def renamed(to):
    def rename(config, tensors):
        for name in [name for name in tensors if "scale" in name]:
            tensors[name.replace("weight_scale_inv", to).replace("weight_scale", to)] = tensors.pop(name)

    return rename


def reshaped(config, tensors):
    for name in [name for name in tensors if "scale" in name]:
        tensors[name] = torch.ones(3, 5)


def gone(config, tensors):
    for name in [name for name in tensors if "scale" in name]:
        del tensors[name]


def both(first, second):
    def do(*sides):
        first(*sides)
        second(*sides)

    return do


def plain(config, tensors):
    for name in [name for name in tensors if "proj" in name]:
        tensors[name] = tensors[name].float()


MISLED = {
    "stripped configuration": (strip, r"14 float8 weights .* no quantization_config: .*down_proj\.weight,"),
    "stripped, .scale": (
        both(strip, renamed("scale")),
        r"as model\.layers\.0\.mlp\.down_proj\.scale, but .* no quantization_config",
    ),
    "stripped, scale_weight": (
        both(strip, renamed("scale_weight")),
        r"down_proj\.scale_weight, but .* no quantization_config",
    ),
    "FNUZ scales": (
        as_dtype("float8_e4m3fnuz"),
        r"14 float8 .*down_proj\.weight_scale\S* is of dtype F8_E4M3FNUZ",
    ),
    "integer scales": (as_dtype("uint8"), r"14 float8 .*down_proj\.weight_scale\S* is of dtype U8"),
    "named .scale": (renamed("scale"), r"its scales are named model\.layers\.0\.mlp\.down_proj\.scale"),
    "named .weight.scale": (renamed("weight.scale"), r"named model\.layers\.0\.mlp\.down_proj\.weight\.scale"),
    "of another shape": (reshaped, r"has the shape \[3, 5\] for \[32, 64\]"),
    "not there": (gone, r"no scales .*down_proj\.weight_scale_inv is not stored"),
    "dequantised": (plain, r"said to be quantised .* all of its tensors are plain floats"),
}
if POWERS:
    MISLED["stripped, E8M0"] = both(strip, as_dtype("float8_e8m0fnu")), r"14 float8 weights .* no quantization_config"


@pytest.mark.parametrize("fault", MISLED)
def test_a_quantised_model_that_is_not_understood_is_refused_for_its_true_reason(tmp_path, small, fault):
    _, base, vector = small
    how, words = MISLED[fault]
    config, tensors = json.loads((base / "config.json").read_text()), load_file(base / "model.safetensors")
    how(config, tensors)
    (base / "config.json").write_text(json.dumps(config))
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(CheckpointError, match=words) as caught:
        apply(str(base), negate=[vector], output_dir=tmp_path / "out")
    assert "again" not in caught.value.hint
    assert ("quantization_config" in caught.value.hint) == (fault.startswith("stripped") or fault == "dequantised")


@pytest.mark.parametrize("size", [[0, 16], 16, ["a", "b"], [16]])
def test_block_sizes_that_make_no_sense_are_refused(tmp_path, size):
    base = quantise(tiny.save_model(tmp_path / "base", "llama"), "blocks")
    whole = json.loads((base / "config.json").read_text())
    whole["quantization_config"]["weight_block_size"] = size
    (base / "config.json").write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="no scales that fit"):
        open_checkpoint(base)
