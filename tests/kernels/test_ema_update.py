"""ema_update: m ← decay · m + (1 − decay) · θ in place."""

import pytest
import torch
from fastunlearn.kernels.ema_update import IMPLEMENTATIONS, ema_update
from list_update import ListUpdate, make


class TestEmaUpdate(ListUpdate):
    function = ema_update
    reference = IMPLEMENTATIONS["reference"]
    operator = torch.ops.fastunlearn.ema_update_
    factor = 0.9

    @staticmethod
    def formula(target, source, factor):
        return factor * target + (1 - factor) * source


def test_equal_tensors_stay_equal(implementation):
    averages, _ = make()
    params = [a.clone() for a in averages]
    implementation(averages, params, 0.3)
    assert all(torch.equal(a, p) for a, p in zip(averages, params, strict=True))


@pytest.mark.parametrize("decay", [-0.1, 1.5, float("nan")])
def test_wrong_decay(decay):
    with pytest.raises(ValueError, match=r"^ema_update: decay must be in \[0, 1\], got"):
        ema_update([torch.zeros(2)], [torch.zeros(2)], decay)
