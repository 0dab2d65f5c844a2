"""One edited tensor as a stream of pieces: any size gives the same bytes, and what was read is known afterwards."""

from __future__ import annotations

import threading

import oracle
import pytest
import torch
from adapters import save_adapter
from merging import method

from taskarith.arithmetic.cpu import CpuCalculator
from taskarith.checkpoints.checkpoint import open_checkpoint
from taskarith.checkpoints.reader import TensorReader
from taskarith.edit.apply import apply
from taskarith.edit.edit import Edit
from taskarith.edit.operands import open_edit
from taskarith.edit.plan import plan_edit
from taskarith.edit.stream import EditedTensor, check_terms
from taskarith.errors import MismatchError, VectorError

NAME = "model.layers.1.mlp.fc1.weight"


def planned(base, *operands):
    """Return the plan of an edit, and what it does to one tensor."""
    checkpoint, edit = open_checkpoint(base), Edit.from_options(list(operands))
    plan = plan_edit(checkpoint, open_edit(edit, checkpoint), edit)
    return plan, next(one for one in plan.tensors if one.source.name == NAME)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [(None, torch.float32), ("BF16", torch.bfloat16)])
@pytest.mark.parametrize("chunk", [7, 100, 1 << 20])
def test_pieces_of_any_size_are_those_of_the_edited_tensor(phi, tuned, chunk, dtype, torch_dtype):
    plan, tensor = planned(phi, f"{tuned[0]}:0.3", tuned[1])
    with TensorReader() as reader:
        work = EditedTensor(plan, tensor, reader, CpuCalculator(chunk), dtype)
        pieces = [(bytes(data), finite) for data, finite in work.pieces(chunk, threading.Event())]
        found, sources = work.fingerprints(), [tensor.source, *(one.vector.delta(NAME) for one in plan.operands)]
        assert found["base"] == reader.fingerprint(sources[0])
        assert found["operands"] == [reader.fingerprint(one.finetuned) for one in sources[1:]]
    base, *others = (oracle.load(one)[NAME] for one in (phi, *map(type(phi), tuned[:2])))
    expected = oracle.edit(base, [one.double() - base.double() for one in others], [0.3, 1.0], torch_dtype)
    assert b"".join(data for data, _ in pieces) == expected.view(torch.uint8).numpy().tobytes()
    assert all(finite for _, finite in pieces)


def test_a_run_that_is_given_up_gives_no_more_pieces(phi, tuned):
    plan, tensor = planned(phi, tuned[0])
    stop, count = threading.Event(), 0
    with TensorReader() as reader:
        for _ in EditedTensor(plan, tensor, reader, CpuCalculator(10)).pieces(10, stop):
            count += 1
            if count == 3:
                stop.set()
    assert count == 3 < tensor.source.elements / 10


def test_a_delta_that_is_not_what_was_written_is_refused(phi, vector):
    plan, tensor = planned(phi, str(vector))
    recorded = plan.operands[0].vector.recorded[NAME]
    check_terms(plan, tensor, [recorded])
    with pytest.raises(VectorError, match=rf"{NAME} .* is not what was written"):
        check_terms(plan, tensor, [recorded[::-1]])


def test_core_space_leaves_nothing_of_an_adapter_out(tmp_path, phi):
    plain = save_adapter(phi, tmp_path / "plain", target_modules=["q_proj"])
    more = save_adapter(phi, tmp_path / "more", target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(MismatchError, match=r"something else for lm_head\.weight"):
        apply(str(phi), add=[str(plain), str(more)], output_dir=tmp_path / "no", method=method("core_space", 0.5))
    assert not (tmp_path / "no").exists()
