import numpy as np
import pytest

from fastunlearn.metrics import collateral_change, percentage_unlearned


def flags(neither, only_after, only_before, both):
    before = np.repeat([False, False, True, True], [neither, only_after, only_before, both])
    after = np.repeat([False, True, False, True], [neither, only_after, only_before, both])
    return before, after


def test_by_hand():
    found = collateral_change(*flags(80, 5, 2, 18))
    assert found.value == pytest.approx(100 * (23 - 20) / 20)
    assert found.low < 15 < found.high
    assert (found.n_before, found.n_after, found.n) == (20, 23, 105)


def test_it_is_pul_turned_around():
    pair = flags(500, 20, 60, 40)
    change, pul = collateral_change(*pair, seed=3), percentage_unlearned(*pair, seed=3)
    assert [change.value, change.low, change.high] == pytest.approx([-pul.value, -pul.high, -pul.low])


def test_none_before_is_reported_and_not_divided_by():
    assert collateral_change(*flags(90, 10, 0, 0)) == (None, None, None, 0, 10, 100)
    assert collateral_change(*flags(100, 0, 0, 0)) == (None, None, None, 0, 0, 100)


def test_all_lost_and_unchanged():
    assert collateral_change(*flags(50, 0, 30, 0))[:3] == (-100, -100, -100)
    assert collateral_change(*flags(50, 0, 0, 30))[:3] == (0, 0, 0)


@pytest.mark.parametrize("cells", [(0.8, 0.05, 0.03, 0.12), (0.5, 0.1, 0.2, 0.2)])
def test_interval_holds_the_truth_as_often_as_it_says(cells):
    rng = np.random.default_rng(0)
    truth = 100 * (cells[1] - cells[2]) / (cells[2] + cells[3])
    found = [collateral_change(*flags(*rng.multinomial(600, cells)), resamples=500, seed=i) for i in range(500)]
    assert 0.915 < np.mean([f.low <= truth <= f.high for f in found]) < 0.98


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ([1, 0], [True, False], r"before must be bool \[n\], got int64"),
        ([], [], r"before must be bool \[n\]"),
        ([True], [True, False], r"after must be \[1\] as before"),
    ],
)
def test_refusals(before, after, message):
    with pytest.raises(ValueError, match=f"collateral_change: {message}"):
        collateral_change(before, after)
    with pytest.raises(ValueError, match="collateral_change: confidence"):
        collateral_change([True], [False], confidence=0)
