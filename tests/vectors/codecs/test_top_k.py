"""The largest entries of a vector, to the bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_forms import check_apply, deltas_of, largest

from taskarith.arithmetic.parallel import Workers
from taskarith.vectors.codecs.top_k import LargestEntries, LargestRows
from taskarith.vectors.extract import extract


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0, 1e-9])
@pytest.mark.parametrize("per", ["global", "tensor"])
def test_exactly_the_largest_are_kept_the_first_of_equal_ones(tmp_path, equal_deltas, density, per):
    deltas = deltas_of(*equal_deltas)
    result = extract(*map(str, equal_deltas), tmp_path / "v.safetensors", top_k=density, top_k_per=per)
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
    check_apply(equal_deltas[0], result.path, wanted, tmp_path / "out")


class Source:
    """Deltas given as arrays, against a base of zeros."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.shapes = {name: value.shape for name, value in arrays.items()}


def selected(selection, arrays, block, workers):
    """Return what a selection keeps of some arrays, cut into blocks."""
    from taskarith.vectors.codecs import top_k as module

    def pieces(source, names, dtype, do, listener, what, threads):
        del dtype, listener, what
        from concurrent.futures import ThreadPoolExecutor

        from taskarith.arithmetic.calculator import Comparison
        from taskarith.arithmetic.parallel import chunks
        from taskarith.vectors.codecs.write import Piece

        spans = [(name, *span) for name in names for span in chunks(source.arrays[name].size, threads.chunk)]
        with ThreadPoolExecutor(threads.count) as pool:
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

    threads = Workers(chunk=block, count=workers)
    source, kept = Source(arrays), {name: np.zeros(value.size, bool) for name, value in arrays.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "each_piece", pieces)
        patch.setattr("taskarith.vectors.codecs.rows.each_piece", pieces)
        dtype = "F64" if next(iter(arrays.values())).itemsize == 8 else "F32"
        selection.prepare(source, sorted(arrays), dtype, threads, None)

        def keep(piece, stop):
            kept[piece.name][piece.start : piece.stop] = selection.of(piece, stop)

        pieces(source, sorted(arrays), dtype, keep, None, "", threads)
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
