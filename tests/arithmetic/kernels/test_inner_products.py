"""Laws and golden values of the inner products of deltas: both calculators against exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from taskarith.arithmetic.calculator import LowRank, Products, Recipe, Term
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.kernels.layout import BLOCK
from taskarith.arithmetic.parallel import chunks
from taskarith.arithmetic.torch import TORCH_DTYPES, TorchCalculator

CHUNK = 4 * BLOCK
CALCULATORS = [CpuCalculator(CHUNK), TorchCalculator(CHUNK)]
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
calculators = pytest.mark.parametrize("calculator", CALCULATORS, ids=lambda one: type(one).__name__)
dtypes = pytest.mark.parametrize("dtype", NAMES, ids=NAMES.values())


def collect(calculator, inputs, terms=None, size=CHUNK, first=0, step=1):
    """Return the table of inner products and the few elements, of inputs from number 1 on unless terms say more."""
    terms = terms or [Term(1.0, index + 1) for index in range(len(inputs))]
    elements = len(inputs[0])
    calculator.begin(Recipe(("F32", *(NAMES[one.dtype] for one in inputs)), tuple(terms), "F64"))
    few = np.full((len(terms), len(range(first, elements, step))), np.nan, np.float32)
    found = Products(np.zeros((len(terms), len(terms))), few, first, step)
    for start, stop in chunks(elements, size):
        for index, values in enumerate(inputs, 1):
            room = calculator.room(index, stop - start)
            room[:] = values[start:stop].contiguous().view(torch.uint8).numpy().tobytes()
        calculator.inner_products(start, stop, found)
    assert (np.triu(found.sums, 1) == 0).all()
    return found.sums + np.tril(found.sums, -1).T, found.few


def exact(rows):
    """Return the sums and those of the magnitudes, both rounded once: the products of 32 bits or less have no error."""
    products = [[[float(a) * float(b) for a, b in zip(x, y, strict=True)] for y in rows] for x in rows]
    return tuple(np.array([[math.fsum(map(f, one)) for one in row] for row in products]) for f in (float, abs))


def random(count, elements, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp2(torch.randint(-12, 12, (count, elements), generator=generator))
    return list((torch.randn(count, elements, generator=generator) * scale).to(dtype))


@calculators
@dtypes
@pytest.mark.parametrize("elements", [1, 2, BLOCK - 1, BLOCK + 1, 2 * CHUNK + 3])
def test_whole_numbers_are_added_without_an_error(calculator, dtype, elements):
    numbers = torch.randint(-127, 128, (3, elements), generator=torch.Generator().manual_seed(elements))
    found, few = collect(calculator, list(numbers.to(dtype)))
    assert (found == (numbers @ numbers.T).numpy()).all()
    assert (few == numbers.numpy()).all()


@calculators
@dtypes
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_sums_are_those_of_exact_products(calculator, dtype, count):
    rows = random(count, CHUNK + 700, dtype)
    sums, magnitudes = exact([row.double().tolist() for row in rows])
    found, _ = collect(calculator, rows)
    assert (abs(found - sums) <= 1e-14 * magnitudes).all()


@calculators
def test_dtypes_mix(calculator):
    rows = [random(1, 1000, dtype, seed)[0] for seed, dtype in enumerate(NAMES)]
    sums, magnitudes = exact([row.double().tolist() for row in rows])
    for order in ([0, 1, 2, 3], [3, 1], [2, 0, 3]):
        found, _ = collect(calculator, [rows[index] for index in order])
        pick = np.ix_(order, order)
        assert (abs(found - sums[pick]) <= 1e-14 * magnitudes[pick]).all()


@calculators
@pytest.mark.parametrize(
    ("dtype", "large", "small"),
    [
        (torch.bfloat16, 3.3895313892515355e38, 9.183549615799121e-41),  # the largest number, the least above zero
        (torch.float32, 3.4028234663852886e38, 1.401298464324817e-45),
        (torch.float16, 65504.0, 5.960464477539063e-08),
    ],
)
def test_products_that_float32_cannot_hold(calculator, dtype, large, small):
    first, second = torch.zeros(2, 1000, dtype=dtype)
    first[7], first[600] = large, small
    second[7], second[601] = -large, small
    found, _ = collect(calculator, [first, second])
    assert found.tolist() == [[large**2, -(large**2)], [-(large**2), large**2]]
    first[7] = second[7] = 0
    assert collect(calculator, [first, second])[0].tolist() == [[small**2, 0], [0, small**2]]
    first[601] = -2 * small
    assert collect(calculator, [first, second])[0].tolist() == [
        [5 * small**2, -2 * small**2],
        [-2 * small**2, small**2],
    ]


@calculators
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@dtypes
def test_what_is_not_finite_is_seen(calculator, dtype, value):
    for place in (0, BLOCK - 1, BLOCK, 1299):
        rows = torch.ones(2, 1300, dtype=dtype)
        rows[1, place] = value
        found, _ = collect(calculator, list(rows))
        assert np.isfinite(found).tolist() == [[True, False], [False, False]]


@calculators
def test_terms_are_differences_and_factors_with_coefficients(calculator):
    tuned, base, other = torch.randint(-50, 50, (3, 1200), generator=torch.Generator().manual_seed(1))
    left, right = np.arange(120.0).reshape(60, 2) % 7, np.arange(40.0).reshape(2, 20) % 5
    terms = [Term(-2.0, 1, 2), Term(1.0, 3), Term(3.0, LowRank(left, right, 0.5)), Term(1.0, 3, 2)]
    inputs = [tuned.to(torch.bfloat16), base.to(torch.float32), other.to(torch.float16)]
    rows = np.stack([-2 * (tuned - base), other, 1.5 * (left @ right).ravel(), other - base])
    found, few = collect(calculator, inputs, terms, first=5, step=7)
    assert (found == rows @ rows.T).all()
    assert (few == rows[:, 5::7]).all()
    assert collect(calculator, [inputs[2]], [Term(-3.0, 1)])[0] == 9 * (other @ other).item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_no_bit_depends_on_how_a_tensor_is_cut(dtype):
    rows = random(3, CHUNK - 5, dtype)
    whole, few = collect(CALCULATORS[0], rows, first=3, step=11)
    for size in (BLOCK, 3 * BLOCK):
        pieces = collect(CALCULATORS[0], rows, size=size, first=3, step=11)
        assert (pieces[0] == whole).all()
        assert (pieces[1] == few).all()


@calculators
@pytest.mark.parametrize(("first", "step"), [(0, 1), (2, 3), (511, 513), (1, 700), (1999, 5), (2000, 5)])
def test_the_few_elements_are_every_so_many(calculator, first, step):
    rows = random(2, 2000, torch.float32)
    for size in (CHUNK, 600, 7):
        found = collect(calculator, rows, size=size, first=first, step=step)[1]
        assert found.tolist() == [row[first::step].tolist() for row in rows]
