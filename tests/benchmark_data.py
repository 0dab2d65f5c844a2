"""Benchmarks in their public layouts."""

from __future__ import annotations

from taskarith.evaluation.benchmarks import load_benchmark
from taskarith.spec import parse_benchmark


def load(text, limit=None):
    return {part.name: part for part in load_benchmark(parse_benchmark(text), limit)}
