"""Both calculators, compiled and torch, and one recipe calculated by either."""

from __future__ import annotations

import pytest
import torch

from taskarith.arithmetic.calculator import Recipe
from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.arithmetic.torch import TORCH_DTYPES, TorchCalculator

CHUNK = 5000
CALCULATORS = [CpuCalculator(CHUNK), TorchCalculator(CHUNK)]
if torch.cuda.is_available():
    CALCULATORS.append(TorchCalculator(CHUNK, "cuda"))
NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
NARROW = [torch.bfloat16, torch.float16, torch.float32]
calculators = pytest.mark.parametrize("calculator", CALCULATORS, ids=lambda one: type(one).__name__)


def raw(values):
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def begin(calculator, inputs, terms, dtype):
    calculator.begin(Recipe(tuple(NAMES[one.dtype] for one in inputs), tuple(terms), NAMES[dtype]))
    for index, values in enumerate(inputs):
        calculator.room(index, values.numel())[:] = raw(values)


def tensor(data, dtype):
    return torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)


def linear(calculator, inputs, terms, dtype):
    begin(calculator, inputs, terms, dtype)
    data, is_finite = calculator.linear(0, inputs[0].numel())
    return tensor(data, dtype), is_finite


def same(first, second):
    return raw(first) == raw(second)


def rounded(calculator, values, dtype):
    return linear(calculator, [values], [], dtype)
