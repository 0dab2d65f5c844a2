"""Benchmarks in their public layouts."""

from __future__ import annotations

from taskarith.data.spec import parse_benchmark
from taskarith.evaluation.benchmarks import load_benchmark


def load(text, limit=None):
    return {part.name: part for part in load_benchmark(parse_benchmark(text), limit)}
