"""Sparse task vectors: which entries they keep, against numpy; and edits with them, against the oracle."""

from __future__ import annotations

import json
import threading

import numpy as np
import oracle
import pytest
import tiny
import torch
from adapters import save_adapter
from hypothesis import given
from hypothesis import strategies as st
from packed_forms import check_apply, deltas_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from taskarith.errors import MismatchError, UsageError
from taskarith.vectors.codecs.top_k import LargestEntries, LargestRows
from taskarith.vectors.extract import extract

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def largest(values, count):
    """Return which of some values are kept: the largest magnitudes, the first of equal ones."""
    kept = np.zeros(values.size, bool)
    kept[np.argsort(-np.abs(values.ravel().astype(np.float64)), kind="stable")[:count]] = True
    return kept.reshape(values.shape)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tiny Qwen2 in shards, and a fine-tune some of whose deltas are equal, across tensors too."""
    root = tmp_path_factory.mktemp("sparse")
    base = tiny.save_model(root / "base", "qwen2", max_shard_size="60KB")
    tuned = tiny.save_model(root / "tuned", "qwen2", nudge_of=base, seed=1, max_shard_size="60KB")
    for folder in (base, tuned):
        for file in folder.glob("*.safetensors"):
            tensors = load_file(file)
            for tensor in tensors.values():
                tensor.copy_((tensor * 512).round() / 512)  # deltas are a few multiples of 1/512: many ties
            save_file(tensors, file, metadata={"format": "pt"})
    return base, tuned


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0, 1e-9])
@pytest.mark.parametrize("per", ["global", "tensor"])
def test_exactly_the_largest_are_kept_the_first_of_equal_ones(tmp_path, pair, density, per):
    deltas = deltas_of(*pair)
    result = extract(*map(str, pair), tmp_path / "v.safetensors", top_k=density, top_k_per=per)
    if per == "tensor":
        kept = {name: largest(delta, max(1, round(density * delta.size))) for name, delta in deltas.items()}
    else:
        whole = np.concatenate([delta.ravel() for delta in deltas.values()])
        flat = largest(whole, max(1, round(density * whole.size)))
        ends = np.cumsum([delta.size for delta in deltas.values()])
        parts = np.split(flat, ends[:-1])
        kept = {name: part.reshape(deltas[name].shape) for name, part in zip(deltas, parts, strict=True)}
    wanted = {name: np.where(kept[name], delta, 0) for name, delta in deltas.items()}
    assert result.loss is not None
    assert result.loss.kept == sum(int(one.sum()) for one in kept.values())
    squares = {name: float((d.astype(np.float64) ** 2).sum()) for name, d in deltas.items()}
    saved = {name: float((d.astype(np.float64) ** 2).sum()) for name, d in wanted.items()}
    assert result.loss.energy == pytest.approx(sum(saved.values()) / sum(squares.values()), abs=1e-12)
    errors = {name: max(0.0, 1 - saved[name] / squares[name]) ** 0.5 for name in squares}
    assert result.loss.worst_error == pytest.approx(max(errors.values()), abs=1e-7)
    assert errors[result.loss.worst] == pytest.approx(max(errors.values()), abs=1e-7)
    check_apply(pair[0], result.path, wanted, tmp_path / "out")


@pytest.mark.parametrize("share", [0.2, 0.01, 1.0])
def test_rows_with_the_largest_norms_are_kept_whole(tmp_path, pair, share):
    result = extract(*map(str, pair), tmp_path / "v.safetensors", rows=share)
    wanted = deltas_of(*pair)
    for delta in wanted.values():
        if delta.ndim >= 2:
            norms = (delta.astype(np.float64) ** 2).sum(1)
            count = max(1, round(share * len(norms)))
            delta[np.argsort(-norms, kind="stable")[count:]] = 0
    check_apply(pair[0], result.path, wanted, tmp_path / "out", alpha=-1.0)
    with safe_open(result.path, "pt") as file:
        assert json.loads(file.metadata()["options"]) == {"rows": share}
        assert json.loads(file.metadata()["error"]) == result.loss.error


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_values_are_rounded_once_to_their_dtype(tmp_path, dtype, phi, phi_tuned):
    result = extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", top_k=0.1, dtype=dtype)
    before, after = oracle.load(phi), oracle.load(phi_tuned)
    exact = {name: after[name].double() - before[name].double() for name in sorted(before)}
    chosen = exact if dtype == "float64" else {name: delta.float() for name, delta in exact.items()}
    whole = np.concatenate([delta.numpy().ravel() for delta in chosen.values()])
    flat = np.where(largest(whole, round(0.1 * whole.size)), whole, 0)
    parts = np.split(flat, np.cumsum([delta.numel() for delta in chosen.values()])[:-1])
    wanted = {
        name: torch.from_numpy(part.reshape(exact[name].shape)).to(DTYPES[dtype]).double().numpy()
        for name, part in zip(exact, parts, strict=True)
    }
    check_apply(phi, result.path, wanted, tmp_path / "out")
    assert (result.loss.error**2 + result.loss.energy) == pytest.approx(1)


class Source:
    """Deltas given as arrays, against a base of zeros."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.shapes = {name: value.shape for name, value in arrays.items()}


def selected(selection, arrays, block, workers):
    """Return what a selection keeps of some arrays, cut into blocks."""
    from taskarith.vectors.codecs import top_k as module

    def pieces(source, names, dtype, do, listener, what, *, block, device, workers=workers):
        del dtype, listener, what, device
        from concurrent.futures import ThreadPoolExecutor

        from taskarith.arithmetic.calculator import Comparison
        from taskarith.arithmetic.parallel import chunks
        from taskarith.vectors.codecs.write import Piece

        spans = [(name, *span) for name in names for span in chunks(source.arrays[name].size, block)]
        with ThreadPoolExecutor(workers) as pool:
            tasks = [
                pool.submit(
                    do,
                    Piece(
                        i,
                        n,
                        a,
                        b,
                        (),
                        (),
                        memoryview(source.arrays[n].ravel()[a:b].tobytes()),
                        True,
                        Comparison(0, 0, 0),
                    ),
                    threading.Event(),
                )
                for i, (n, a, b) in enumerate(spans)
            ]
            for task in tasks:
                task.result()

    source, kept = Source(arrays), {name: np.zeros(value.size, bool) for name, value in arrays.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "each_piece", pieces)
        patch.setattr("taskarith.vectors.codecs.rows.each_piece", pieces)
        dtype = "F64" if next(iter(arrays.values())).itemsize == 8 else "F32"
        selection.prepare(source, sorted(arrays), dtype, block, "cpu", None)

        def keep(piece, stop):
            kept[piece.name][piece.start : piece.stop] = selection.of(piece, stop)

        pieces(source, sorted(arrays), dtype, keep, None, "", block=block, device="cpu")
    return kept


@given(
    st.sampled_from(["<f4", "<f8"]),
    st.integers(0, 2**32),
    st.floats(1e-3, 1),
    st.sampled_from([1, 7, 64, 1000]),
    st.sampled_from([1, 4]),
    st.booleans(),
)
def test_blocks_and_threads_change_nothing(kind, seed, density, block, workers, with_rows):
    generator = np.random.default_rng(seed)
    pool = np.array([0.0, -0.0, 1e-42, 1.0, -1.0, 1.0 + 2e-7, 65504, -(2.0**-20), 3e38], kind)
    arrays = {"a": generator.choice(pool, (13, 11)), "b": generator.choice(pool, (40,)), "c": np.zeros((0, 3), kind)}
    if with_rows:
        found = selected(LargestRows(density), arrays, block, workers)
        norms = np.square(arrays["a"].astype(np.float64)).sum(1)
        assert found["b"].all()
        rows = found["a"].reshape(13, 11)
        assert (rows.all(1) == rows.any(1)).all()
        assert rows.all(1).sum() == max(1, round(density * 13))
        assert norms[rows.all(1)].min() >= norms[~rows.all(1)].max(initial=0) * (1 - 1e-12)
        return
    found = selected(LargestEntries(density, per_tensor=False), arrays, block, workers)
    whole = np.concatenate([arrays["a"].ravel(), arrays["b"]])
    assert (np.concatenate([found["a"], found["b"]]) == largest(whole, max(1, round(density * whole.size)))).all()


def test_what_cannot_be_is_refused(tmp_path, phi, phi_tuned):
    def call(**options):
        return extract(str(phi), str(phi_tuned), tmp_path / "v.safetensors", **options)

    for share in (0.0, -0.1, 1.01, float("nan")):
        for option in ("top_k", "rows"):
            with pytest.raises(UsageError, match="above 0 and at most 1"):
                call(**{option: share})
    with pytest.raises(UsageError, match="--exact and --top-k are different forms"):
        call(exact=True, top_k=0.1)
    with pytest.raises(UsageError, match="--top-k-per tensor"):
        call(rows=0.1, top_k_per="tensor")
    with pytest.raises(UsageError, match="--top-k-per layer"):
        call(top_k=0.1, top_k_per="layer")
    assert list(tmp_path.iterdir()) == []


def test_deltas_that_are_not_finite_are_refused(tmp_path, phi):
    tuned = tiny.save_model(tmp_path / "tuned", nudge_of=phi, seed=1)
    tensors = load_file(tuned / "model.safetensors")
    tensors["lm_head.bias"][0] = float("nan")
    tensors["lm_head.weight"][0, 0] = 1e6
    save_file(tensors, tuned / "model.safetensors", metadata={"format": "pt"})
    for options in ({"top_k": 0.1}, {"rows": 0.1}, {"bits": 8}, {"bits": 1}):
        with pytest.raises(MismatchError, match=r"not finite: lm_head\.bias"):
            extract(str(phi), str(tuned), tmp_path / "v.safetensors", **options)
    with pytest.raises(MismatchError, match=r"of lm_head\.weight overflows F16"):
        extract(str(phi), str(tuned), tmp_path / "v.safetensors", top_k=0.1, dtype="float16")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}


def test_an_adapter_is_packed_as_its_merged_deltas(tmp_path, phi):
    adapter = save_adapter(phi, tmp_path / "adapter")
    dense = load_file(extract(str(phi), str(adapter), tmp_path / "dense.safetensors").path)
    result = extract(str(phi), str(adapter), tmp_path / "v.safetensors", top_k=0.1, top_k_per="tensor")
    wanted = {name: torch.zeros_like(value).numpy() for name, value in oracle.load(phi).items()}
    for name, delta in dense.items():
        wanted[name] = np.where(largest(delta.numpy(), round(0.1 * delta.numel())), delta.numpy(), 0)
    assert result.inexact is None
    check_apply(phi, result.path, wanted, tmp_path / "out")
    with pytest.raises(UsageError, match="an adapter stores no fine-tuned weights"):
        extract(str(phi), str(adapter), tmp_path / "w.safetensors", exact=True)
