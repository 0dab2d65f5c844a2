"""What a tensor is calculated from: nothing is read twice, other rows are cut or filled with zeros."""

from __future__ import annotations

import numpy as np
import pytest

from taskarith.arithmetic.calculator import LowRank, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.checkpoints.header import TensorEntry
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.inputs import NOTHING, calculated, gather, open_inputs, term_fingerprints
from taskarith.errors import MismatchError
from taskarith.vectors.vector import Difference, Factored, Packed, Stored


@pytest.fixture
def tensor(tmp_path):
    """Store float32 numbers as a tensor of two columns, in a file of its own."""

    def store(name, *numbers):
        path = tmp_path / name
        path.write_bytes(np.array(numbers, "<f4").tobytes())
        return TensorEntry(name, "F32", (len(numbers) // 2, 2), path, 0)

    return store


class Decoded:
    """A fine-tune that is decoded as its base, plus 1."""

    def __init__(self, _):
        self.of = b""

    def read_into(self, out, base):
        self.of += bytes(base)
        out[:] = (np.frombuffer(base, "<f4") + 1).tobytes()

    def fingerprint(self):
        return f"{len(self.of)} bytes"


def run(what, elements):
    """Calculate a tensor, an element at a time; return its numbers and the fingerprints of its terms."""
    calculator, found = CpuCalculator(4), b""
    calculator.begin(what.recipe)
    with TensorReader() as reader:
        inputs = open_inputs(what, reader, calculator)
        for start in range(elements):
            for index, one in enumerate(inputs):
                one.read_into(calculator.room(index, 1))
            found += bytes(calculated(what, calculator, start, start + 1)[0])
        return np.frombuffer(found, "<f4").tolist(), term_fingerprints(what, inputs)


def test_no_tensor_is_read_twice(tensor):
    base, tuned, delta = tensor("base", 1, 2), tensor("tuned", 3, 5), tensor("delta", 10, 20)
    deltas = [(0.5, Difference(tuned, base)), (1.0, Stored(delta)), (-1.0, Stored(delta)), (2.0, Stored(tuned))]
    what = gather(base, base.shape, deltas, "F32")
    assert what.inputs == (base, tuned, delta)
    assert what.recipe.terms == (Term(0.5, 1, 0), Term(1.0, 2), Term(-1.0, 2), Term(2.0, 1))
    numbers, fingerprints = run(what, 2)
    assert numbers == [1 + 1 + 6, 2 + 1.5 + 10]
    assert fingerprints[0] == fingerprints[3] != fingerprints[1] == fingerprints[2]


def test_factors_have_a_fingerprint_of_their_own_and_are_not_read(tensor):
    base = tensor("base", 1, 2)
    factors = LowRank(np.array([[3.0]]), np.array([[1.0, 10.0]]), 2.0)
    what = gather(base, base.shape, [(0.5, Factored(factors, "known"))], "F32")
    assert (what.inputs, what.fingerprints) == ((base,), ("known",))
    assert run(what, 2) == ([1 + 3, 2 + 30], ["known"])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_other_rows_are_left_out_or_zero(tensor, rows):
    base, delta = tensor("base", 1, 2, 3, 4), tensor("delta", *[10, 20, 30, 40, 50, 60][: 2 * rows])
    numbers, _ = run(gather(base, base.shape, [(1.0, Stored(delta))], "F32"), 4)
    assert numbers == [11, 22, *([3, 4] if rows == 1 else [33, 44])]


def test_a_difference_is_that_of_the_rows_that_both_sides_have(tensor):
    base, before, after = tensor("base", 1, 2, 3, 4), tensor("before", 5, 6), tensor("after", 7, 9, 100, 100)
    numbers, _ = run(gather(base, base.shape, [(1.0, Difference(after, before))], "F32"), 4)
    assert numbers == [3, 5, 3, 4]


def test_what_is_decoded_from_the_edited_tensor_is_the_result_itself(tensor):
    base = tensor("base", 1, 2)
    packed = Packed("F32", 8, Decoded, base)
    what = gather(base, base.shape, [(1.0, packed)], "F32")
    assert what.result == 1
    assert run(what, 2) == ([2, 3], ["8 bytes"])
    for coefficient, dtype in ((0.5, "F32"), (1.0, "F64")):
        assert gather(base, base.shape, [(coefficient, packed)], dtype).result is None
    assert gather(base, base.shape, [(1.0, packed), (1.0, Stored(base))], "F32").result is None
    assert run(gather(base, base.shape, [(0.5, packed)], "F32"), 2)[0] == [1.5, 2.5]


def test_what_is_decoded_against_another_base_is_refused(tensor):
    base = tensor("base", 1, 2)
    with TensorReader() as reader:
        right = reader.fingerprint(base)
    assert run(gather(base, base.shape, [(1.0, Packed("F32", 8, Decoded, base, right))], "F32"), 2)[0] == [2, 3]
    with pytest.raises(MismatchError, match="base cannot be decoded"):
        run(gather(base, base.shape, [(1.0, Packed("F32", 8, Decoded, base, "another"))], "F32"), 2)


def test_a_sum_of_deltas_has_zeros_as_its_base(tensor):
    delta = tensor("delta", 1, -2)
    assert run(gather(NOTHING, delta.shape, [(0.5, Stored(delta))], "F32"), 2)[0] == [0.5, -1]
