"""Processes of one edit agree on their plan and their inputs, or all of them say what differs."""

from __future__ import annotations

import shutil
import threading

from interrupted import rewritten

from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.team import ALONE, Team
from taskarith.edit.agreement import agreed_plan
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.errors import MismatchError
from taskarith.spec import OperandRef
from taskarith.vectors.extract import extract


def agree(*plans):
    """Let processes compare their plans; return what each of them gets, or the error that it raises."""
    barrier, told, found = threading.Barrier(len(plans)), {}, {}

    def gather(rank):
        def do(mine):
            told[rank] = mine
            barrier.wait()
            everything = [told[index] for index in range(len(plans))]
            barrier.wait()
            return everything

        return do

    def call(rank, plan):
        try:
            found[rank] = agreed_plan(plan, Team(rank, len(plans), gather=gather(rank)))
        except MismatchError as error:
            found[rank] = error.message

    threads = [threading.Thread(target=call, args=one) for one in enumerate(plans)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return [found[rank] for rank in range(len(plans))]


def planned(folder, coefficient=0.5, vector="v.safetensors"):
    base = open_checkpoint(folder / "base")
    edit = Edit((OperandRef(str(folder / vector), coefficient),))
    return plan_edit(base, open_edit(edit, base), edit)


def test_processes_that_see_copies_of_the_inputs_agree_by_content(tmp_path, sharded):
    copy = tmp_path / "copy"
    for name in ("base", "tuned"):
        shutil.copytree(sharded / name, copy / name)
    shutil.copy(sharded / "v.safetensors", copy)
    plan = planned(sharded)
    assert agreed_plan(plan, ALONE) == plan.fingerprint()
    assert agree(plan, plan) == [plan.fingerprint()] * 2
    assert agree(plan, planned(copy)) == [plan.fingerprint()] * 2
    assert {*agree(plan, planned(sharded, 0.25))} == {"process 1 would make another edit than process 0"}
    weights = sorted((copy / "base").glob("model-*"))[1]
    rewritten(weights)
    assert {*agree(plan, plan, planned(copy))} == {f"process 2 has another {weights.name} than process 0"}
    extract(str(sharded / "base"), str(sharded / "tuned"), copy / "v.safetensors", dtype="float64", overwrite=True)
    assert {*agree(plan, planned(copy))} == {"process 1 has another v.safetensors than process 0"}


def test_a_process_that_reads_more_files_is_told_which(tmp_path, sharded):
    """A fine-tune records where its base is: a process that was started beside a copy reads both."""
    copy = tmp_path / "copy"
    for name in ("base", "tuned"):
        shutil.copytree(sharded / name, copy / name)
    first = sorted((sharded / "base").glob("model-*"))
    both = planned(copy, vector="tuned")
    assert len(both.states) == 2 * len(first) + 1, "the copy of the base and the one that the fine-tune records"
    counts = f"process 1 reads {2 * len(first) + 1} input files and process 0 reads {len(first) + 1}"
    said = {*agree(planned(sharded, vector="tuned"), both)}
    assert said == {f"{counts}; the difference includes {first[0].name}"}
