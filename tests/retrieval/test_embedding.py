"""Guards the one loop that embeds: order, batches, mode of the model, no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_model

from pemoe.retrieval.embedding import embed_rows


@pytest.mark.parametrize("training", [False, True])
def test_rows_come_back_in_the_order_given_batch_by_batch(training: bool) -> None:
    model, seen = build_tiny_model().train(training), []

    def embed(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((rows.tolist(), model.training, torch.is_grad_enabled()))
        return torch.from_numpy(rows), torch.from_numpy(10 * rows)

    first, second = embed_rows(model, np.array([4, 1, 3, 0, 2]), embed, batch_size=2)
    assert seen == [([4, 1], False, False), ([3, 0], False, False), ([2], False, False)]
    assert first.tolist() == [4, 1, 3, 0, 2] and second.tolist() == [40, 10, 30, 0, 20]
    assert model.training is training


def test_the_mode_comes_back_after_a_fault() -> None:
    model = build_tiny_model().train()
    with pytest.raises(ZeroDivisionError):
        embed_rows(model, range(3), lambda rows: (torch.zeros(1 // 0),))
    assert model.training
