"""Where each element of a file comes from: the parameter that transformers loads it into."""

from __future__ import annotations

import json

import oracle
import pytest
import torch
from architectures import CONFIGURATIONS, architecture, save

from taskarith.architecture.layout import Architecture, positions


def assembled(tensor: torch.Tensor, pieces, state) -> torch.Tensor:
    """Build a stored tensor from the parameters that its pieces name."""
    found = torch.empty_like(tensor)
    for piece in pieces:
        part = state[piece.parameter]
        part = part if piece.expert is None else part[piece.expert]
        if piece.rows is not None:
            part = part[torch.tensor(list(positions(piece.rows)))]
        if piece.columns is not None:
            part = part[..., torch.tensor(list(positions(piece.columns)))]
        found[..., piece.start : piece.stop, :] = part.mT if piece.is_transposed else part
    return found


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_every_stored_element_is_traced_to_the_parameter_that_transformers_loads_it_into(tmp_path, kind):
    state, found = save(kind, tmp_path / "m").state_dict(), architecture(tmp_path / "m")
    stored = oracle.load(tmp_path / "m")
    assert found.model_class
    assert found.stored.keys() == stored.keys()
    for name, tensor in stored.items():
        parameter = found.parameter_of(name)
        whole = state[parameter] if parameter else assembled(tensor, found.stored[name], state)
        assert torch.equal(whole, tensor), name
    held = {piece.parameter for pieces in found.stored.values() for piece in pieces}
    assert held | {*found.ties} == {*state}
    assert Architecture.from_json(json.loads(json.dumps(found.to_json()))) == found
