"""Measurements whose names and words are markup."""

from __future__ import annotations

import shutil

import pytest
import tiny
from reporting import EVIL

from taskarith.attacks.attack import attack
from taskarith.evaluation.evaluate import evaluate
from taskarith.report.sweep import plot_sweep
from taskarith.sweeps.sweep import sweep


@pytest.fixture(scope="session")
def measured(phi, phi_tuned, tmp_path_factory):
    """An evaluation, a sweep and an attack, of texts and models whose names and words are markup."""
    room = tmp_path_factory.mktemp("measured")
    for name, seed in (("forget", 1), ("retain", 2)):
        (room / f"{name}.txt").write_text(f"{tiny.text(120, seed)} {EVIL} {tiny.text(40, seed)}", encoding="utf-8")
    tuned = shutil.copytree(phi_tuned, room / "tuned <b>")
    data = {"forget <i>x</i>": str(room / "forget.txt"), "retain": str(room / "retain.txt")}
    small = {"block_size": 16, "prompts": 2, "prompt_tokens": 4, "continuation_tokens": 4}
    evaluate([str(tuned)], data, reference=str(phi), output_dir=room / "eval", lens=2, **small)
    sweep(
        str(phi),
        data,
        negate=[f"{tuned}@@{phi}"],
        alphas=[0, 1],
        budget=0.1,
        output_dir=room / "sweep",
        draw=plot_sweep,
        **small,
    )
    attack(
        str(tuned), str(room / "forget.txt"), before=str(phi), output_dir=room / "attack",
        attacks="quantise", bits=[8], draws=0, **small,
    )  # fmt: skip
    return room
