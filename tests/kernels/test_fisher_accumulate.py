"""fisher_accumulate: F ← F + weight · g² in place."""

import pytest
import torch
from fastunlearn.kernels.fisher_accumulate import IMPLEMENTATIONS, fisher_accumulate
from list_update import ListUpdate


class TestFisherAccumulate(ListUpdate):
    function = fisher_accumulate
    reference = IMPLEMENTATIONS["reference"]
    operator = torch.ops.fastunlearn.fisher_accumulate_
    factor = 0.25

    @staticmethod
    def formula(target, source, factor):
        return target + factor * source * source


def test_the_mean_over_samples_is_that_of_per_sample_gradients(implementation):
    """As `fisher_information` uses it: n calls of weight 1 / n."""
    samples = torch.randn(32, 1000)
    fisher = torch.zeros(1000)
    for grad in samples:
        implementation([fisher], [grad], 1 / 32)
    torch.testing.assert_close(
        fisher.double(), samples.double().square().mean(0), rtol=1e-6, atol=1e-9, check_dtype=False
    )


def test_the_square_does_not_leave_half_precision(implementation):
    """300² is out of float16's range, and 1e-4² below it; their weighted sums are not."""
    fisher = torch.tensor([0.0, 1.0], dtype=torch.float16)
    implementation([fisher], [torch.tensor([300.0, 1e-4], dtype=torch.float16)], 0.5)
    assert fisher.tolist() == [torch.tensor(45000.0, dtype=torch.float16).item(), 1.0]
    fisher = torch.zeros(1, dtype=torch.float16)
    implementation([fisher], [torch.tensor([1e-4], dtype=torch.float16)], 1e4)
    assert fisher.item() == pytest.approx(1e-4, rel=1e-2)


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
def test_wrong_weight(weight):
    with pytest.raises(ValueError, match=r"^fisher_accumulate: weight must be non-negative and finite, got"):
        fisher_accumulate([torch.zeros(2)], [torch.zeros(2)], weight)
