"""Log-probabilities some rows at a time equal those of torch's cross-entropy, and so do their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from swift.tasks import row_logps as module
from swift.tasks.row_logps import row_logps


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_equal_to_cross_entropy(
    smoothing: float, dtype: torch.dtype, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = [slice(start, start + rows_at_once) for start in range(0, 7, rows_at_once)]
    monkeypatch.setattr(module, "slices", lambda logits: step)
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 50)).to(dtype).requires_grad_()
    twin = logits.detach().clone().requires_grad_()
    labels, upstream = torch.randint(50, (7,)), torch.randn(7)
    ours = row_logps(logits, labels, smoothing)
    theirs = -F.cross_entropy(twin.float(), labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    ours.backward(upstream)
    theirs.backward(upstream)
    torch.testing.assert_close(logits.grad, twin.grad, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-6)


def test_no_rows() -> None:
    logits = torch.randn(0, 5, requires_grad=True)
    (row_logps(logits, torch.zeros(0, dtype=torch.long)).sum() + 0.0 * logits.sum()).backward()
    assert logits.grad is not None
