import dataclasses
import operator

import pytest

from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import Provenance, Score, require_comparable

MADE = Provenance("inception", "ab" * 32, "bilinear", 5000, "fastunlearn 0.1.0", True, 50_000)


def _score(value=1.0, name="fid", **changes):
    return Score(name, value, dataclasses.replace(MADE, **changes))


def test_scores_of_one_provenance_compare_and_subtract():
    low, high = _score(3.0), _score(4.5)
    assert high - low == 1.5
    assert low < high
    assert high > low
    assert low <= _score(3.0)
    assert high >= low
    assert not high < low
    assert not high <= low
    assert min(high, low) is low
    require_comparable(low, high, low)
    require_comparable(low)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extractor": "digits"}, "extractor differs: inception against digits"),
        ({"extractor_sha256": "cd" * 32}, "SHA-256 of the extractor's weights differs: abab"),
        ({"resize": "bicubic"}, "resize rule differs: bilinear against bicubic"),
        ({"n": 15_000}, "sample count differs: 5,000 against 15,000"),
        ({"n": None}, "sample count differs: 5,000 against unknown"),
        ({"n_reference": 100}, "sample count of the reference differs: 50,000 against 100"),
        ({"library": "fastunlearn 0.2.0"}, "library version differs: fastunlearn 0.1.0 against fastunlearn 0.2.0"),
        ({"standard": False}, "comparability with published values differs: True against False"),
    ],
)
@pytest.mark.parametrize("compare", [operator.sub, operator.lt, operator.le, operator.gt, operator.ge])
def test_another_provenance_is_refused_by_what_differs(change, message, compare):
    with pytest.raises(FastUnlearnError) as caught:
        compare(_score(), _score(**change))
    text = str(caught.value)
    assert "\n" not in text
    # `a > b` may ask b first.
    words, _, values = message.partition(": ")
    assert f"fid: cannot be compared, {words}: " in text
    assert message in text or " against ".join(reversed(values.split(" against "))) in text


def test_every_field_counts():
    fields = {field.name for field in dataclasses.fields(Provenance)}
    for field in fields:
        other = _score(**{field: "another"})
        with pytest.raises(FastUnlearnError, match="differs"):
            require_comparable(_score(), _score(), other)


def test_other_metrics_are_refused():
    with pytest.raises(FastUnlearnError, match="fid and kid cannot be compared: they are different metrics"):
        _score() < _score(name="kid")  # noqa: B015


def test_the_text_of_a_score_says_everything():
    score = Score("fid", 12.3456789, MADE, 12.0, 13.0)
    text = "fid 12.3457 [12, 13] (inception abababab, bilinear, n = 5,000 against 50,000, fastunlearn 0.1.0)"
    assert str(score) == text
    unknown = dataclasses.replace(MADE, n=None, n_reference=None, standard=False)
    assert str(unknown).endswith("n = unknown, fastunlearn 0.1.0; not comparable with published values")


def test_dictionaries_hold_every_field():
    score = Score("fid", 1.5, MADE)
    assert score.to_dict() == {"name": "fid", "value": 1.5, "provenance": MADE.to_dict(), "low": None, "high": None}
    assert Provenance(**MADE.to_dict()) == MADE
