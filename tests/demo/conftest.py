"""The demo, run once in both forms."""

from __future__ import annotations

import pytest
from tiny_demo import TINY

from taskarith.demo.run import run_demo


@pytest.fixture(scope="session", params=[False, True], ids=["full", "lora"])
def shown(request, tmp_path_factory, phi):
    folder = tmp_path_factory.mktemp("demo")
    return run_demo(str(phi), folder / "demo", lora=request.param, scale=TINY), request.param
