import numpy as np
import pytest

from fastunlearn.metrics import ClassifierError, corrected_share, corrected_share_interval


def errors(hits, of_class, false_positives, others):
    return ClassifierError(np.array([[others - false_positives, false_positives], [of_class - hits, hits]]))


def test_counts():
    confusion = ClassifierError(np.array([[90, 8, 2], [5, 80, 15], [1, 3, 96]]))
    assert confusion.counts(1) == (11, 200, 20, 100)


def test_value_is_the_plain_correction():
    found = corrected_share_interval(300, 1000, errors(95, 100, 30, 1000), 1)
    assert found.value == corrected_share(0.3, 0.03, 0.05)
    assert found.low < found.value < found.high


def test_a_perfect_well_known_classifier_leaves_the_binomial_interval():
    # With rates of 0 from very many images what remains is the Agresti-Coull interval of the share itself.
    found = corrected_share_interval(40, 400, errors(10**9, 10**9, 0, 10**9), 1)
    z2 = 1.959964**2
    centre = (40 + z2 / 2) / (400 + z2)
    half = 1.959964 * np.sqrt(centre * (1 - centre) / (400 + z2))
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), rel=1e-5)


def test_few_images_behind_the_rates_widen_it():
    widths = []
    for scale in (1, 10, 100):
        found = corrected_share_interval(300, 10_000, errors(19 * scale, 20 * scale, 2 * scale, 100 * scale), 1)
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1] > 1.5 * widths[2]


def test_none_found_reaches_down_to_zero():
    found = corrected_share_interval(0, 1000, errors(98, 100, 5, 1000), 1)
    assert (found.value, found.low) == (0, 0)
    assert 0 < found.high < 0.01


@pytest.mark.parametrize("share", [0.005, 0.1, 0.5])
@pytest.mark.parametrize(("n_rates", "sensitivity", "specificity"), [(100, 0.9, 0.95), (1000, 0.99, 0.998)])
def test_interval_holds_the_truth_as_often_as_it_says(share, n_rates, sensitivity, specificity):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1500):
        hits += _holds(rng, share, n_rates, sensitivity, specificity)
    assert 0.93 < hits / 1500 <= 1


def _holds(rng, share, n_rates, sensitivity, specificity):
    seen = errors(rng.binomial(n_rates, sensitivity), n_rates, rng.binomial(n_rates, 1 - specificity), n_rates)
    found = rng.binomial(800, share * sensitivity + (1 - share) * (1 - specificity))
    interval = corrected_share_interval(int(found), 800, seen, 1)
    return interval.low <= share <= interval.high


@pytest.mark.parametrize(
    ("found", "n", "seen", "message"),
    [
        (5, 4, errors(9, 10, 1, 10), r"found must be in \[0, n\], n >= 1, got 5 of 4"),
        (-1, 4, errors(9, 10, 1, 10), "got -1 of 4"),
        (0, 0, errors(9, 10, 1, 10), "got 0 of 0"),
        (1, 4, errors(0, 0, 1, 10), "must count images of class 1 and of others, got 0 and 10"),
    ],
)
def test_refusals(found, n, seen, message):
    with pytest.raises(ValueError, match=f"corrected_share_interval: .*{message}"):
        corrected_share_interval(found, n, seen, 1)


def test_a_classifier_no_better_than_chance():
    with pytest.raises(ValueError, match="must sum to less than 1"):
        corrected_share_interval(5, 10, errors(5, 10, 5, 10), 1)
