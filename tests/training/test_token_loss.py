"""The loss of each token: the definition in float64, whatever the dtype and strides of the logits."""

from __future__ import annotations

import pytest
import torch

from taskarith.training.token_loss import token_losses

LABELS = torch.tensor([[-100, -100, 3, 0, 6], [-100, 5, 2, -100, -100], [-100] * 5])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_their_gradient_are_those_of_the_definition(dtype):
    torch.manual_seed(0)
    logits = (torch.randn(3, 7, 5) * 4).to(dtype).transpose(1, 2).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    learned = LABELS[:, 1:] != -100
    log_p = exact[:, :-1].log_softmax(2).gather(2, LABELS[:, 1:].clamp(min=0)[..., None])[..., 0]
    expected = torch.where(learned, -log_p, 0)
    losses, weights = token_losses(logits, LABELS), torch.tensor([[1.0], [0.3], [2.0]])
    assert losses.dtype == torch.float32
    assert torch.allclose(losses.double(), expected, atol=1e-6)
    assert (losses[~learned] == 0).all()
    [found] = torch.autograd.grad((losses * weights).sum(), logits)
    [wanted] = torch.autograd.grad((expected * weights).sum(), exact)
    assert torch.allclose(found.double(), wanted, atol=1e-6 if dtype == torch.float32 else 4e-3)
    assert (found[2] == 0).all()
