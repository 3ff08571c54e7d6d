"""What a person marks on the page, where it is kept, and which images come next."""

import errno
import itertools
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, label_with_classifier
from fastunlearn.feedback.latents import latent_batches
from fastunlearn.feedback.page.histogram import histogram
from fastunlearn.feedback.page.labelling import FIRST, POOL, Labelling, StalePageError
from fastunlearn.feedback.page.session import TURN, Session


@pytest.fixture
def path(tmp_path):
    return tmp_path / "marked.safetensors"


@pytest.fixture
def labelling(model, path):
    return Labelling(model, path, seed=3, per_page=8)


def current(labelling):
    return labelling.session.pages[-1]


def label_page(labelling, undesired=lambda z: z[:, 0] > 0.7):
    """Mark as a person would, and go on."""
    page, images = len(labelling.session.pages) - 1, current(labelling)
    for image, bad in zip(images, undesired(labelling.stream(images)[0]).tolist(), strict=True):
        labelling.mark(page, image, bad)
    labelling.turn(page)


def until_ten(labelling):
    while len(labelling.session.marked) < FIRST:
        label_page(labelling)


def test_images_are_those_of_the_feedback_stream(model, labelling):
    z, noise_seed = next(latent_batches(model, 3, "feedback"))
    for places in ([0, 1, 2], [249, 3, 3], []):
        got_z, got_seed = labelling.stream(places)
        assert torch.equal(got_z, z[places])
        assert torch.equal(got_seed, noise_seed[places])
    far = list(itertools.islice(latent_batches(model, 3, "feedback"), 3))[2]
    assert torch.equal(labelling.stream([600])[0], far[0][100:101])
    assert current(labelling) == tuple(range(8))


def test_nothing_is_written_before_something_is_done(labelling, path):
    assert not path.exists()
    labelling.mark(0, 5, False)  # was not marked
    labelling.undo(0)
    assert not path.exists()


def test_a_mark_counts_at_once_and_the_others_when_the_person_goes_on(model, labelling, path):
    labelling.mark(0, 5, True)
    z, noise_seed = next(latent_batches(model, 3, "feedback"))
    kept = Feedback.load(path)
    assert (kept.n_undesired, kept.n_desired) == (1, 0)
    assert torch.equal(kept.z, z[5:6])
    labelling.turn(0)
    kept = Feedback.load(path)
    assert kept.label.tolist() == [0, 0, 0, 0, 0, 1, 0, 0]
    assert torch.equal(kept.z, z[:8])
    assert torch.equal(kept.noise_seed, noise_seed[:8])
    assert (kept.source, kept.generator_sha256) == ("person", labelling.generator_sha256)


def test_the_file_makes_the_same_images_again(model, labelling, path):
    until_ten(labelling)
    kept = Feedback.load(path)
    shown = [i for page in labelling.session.pages[:-1] for i in page]
    images = model.generate(*labelling.stream(shown))
    marked = torch.tensor([i in labelling.session.marked for i in shown])
    assert torch.equal(kept.images(model, undesired=True), images[marked])
    assert torch.equal(kept.images(model, undesired=False), images[~marked])


def test_every_step_back(labelling):
    before = [labelling.session]
    for act in (
        lambda: labelling.mark(0, 1, True),
        lambda: labelling.mark(0, 2, True),
        lambda: labelling.mark(0, 1, False),
        lambda: labelling.turn(0),
        lambda: labelling.mark(1, 9, True),
    ):
        act()
        before.append(labelling.session)
    for page, session in zip((1, 1, 0, 0, 0), before[-2::-1], strict=True):
        labelling.undo(page)
        assert labelling.session == session
        assert Feedback.load(labelling.path).sha256() == labelling.feedback().sha256()
    labelling.undo(0)
    assert labelling.session == before[0]


def test_it_goes_on_where_it_stood_after_every_step(model, labelling, path):
    rng = random.Random(0)
    for _ in range(60):
        page = len(labelling.session.pages) - 1
        kind = rng.choice(["mark", "mark", "mark", "turn", "undo"])
        if kind == "mark":
            labelling.mark(page, rng.choice(current(labelling)), rng.random() < 0.8)
        else:
            getattr(labelling, kind)(page)
        again = Labelling(model, path, seed=3, per_page=5)
        assert again.session == labelling.session
        assert again.feedback().sha256() == labelling.feedback().sha256()
    again.turn(page := len(again.session.pages) - 1)
    assert len(current(again)) == 5
    with pytest.raises(FastUnlearnError, match="was changed by somebody else, perhaps by a second page"):
        labelling.turn(page)


def test_what_cannot_be_written_did_not_happen(labelling, path, monkeypatch):
    labelling.mark(0, 1, True)
    before, session = path.read_bytes(), labelling.session

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        for act in (lambda: labelling.mark(0, 2, True), lambda: labelling.turn(0), lambda: labelling.undo(0)):
            with pytest.raises(FastUnlearnError, match="No space left on device"):
                act()
            assert labelling.session is session
            assert path.read_bytes() == before
    labelling.mark(0, 2, True)
    assert Feedback.load(path).n_undesired == 2


def test_only_the_current_page_can_be_changed(labelling):
    labelling.turn(0)
    for act in (lambda: labelling.mark(0, 1, True), lambda: labelling.turn(0), lambda: labelling.undo(0)):
        with pytest.raises(StalePageError, match="page 1 is not the current one, which is page 2"):
            act()
    with pytest.raises(FastUnlearnError, match="image 1 is not on page 2"):
        labelling.mark(1, 1, True)


def test_no_image_is_shown_twice(labelling):
    for _ in range(12):
        label_page(labelling)
    shown = labelling.session.shown
    assert len(shown) == len(set(shown)) == 13 * 8


def test_until_ten_are_marked_images_come_as_they_were_drawn(labelling):
    while len(labelling.session.marked) < FIRST:
        page = len(labelling.session.pages) - 1
        assert current(labelling) == tuple(range(8 * page, 8 * page + 8))
        assert labelling.target(labelling.feedback()) is None
        label_page(labelling)
    assert labelling.target(labelling.feedback()) is not None


def test_then_the_most_uncertain_come_first(model, labelling):
    until_ten(labelling)
    before, images = labelling.session.pages[:-1], current(labelling)
    seen = {i for page in before for i in page}
    pool = [i for i in range(POOL * 8 + len(seen)) if i not in seen][: POOL * 8]
    target = labelling.target(labelling.feedback())
    z = labelling.stream(pool)[0].double()
    direction = target.vector.double()
    distance = (z @ direction / direction.norm() - target.threshold).abs()
    assert list(images) == [pool[i] for i in distance.argsort()[:8].tolist()]
    assert images != tuple(pool[:8])


def test_what_is_passed_over_comes_soon_after(labelling):
    """An order, not a selection: what was labelled has the generator's shares but for the last few pages."""
    until_ten(labelling)
    for _ in range(20):
        label_page(labelling)
    shown = labelling.session.shown
    assert max(shown) < len(shown) + POOL * 8
    assert shown != tuple(sorted(shown))


def test_in_the_order_drawn_where_the_person_wants_it(labelling):
    until_ten(labelling)
    labelling.reorder("drawn")
    shown = set(labelling.session.shown)
    labelling.turn(len(labelling.session.pages) - 1)
    assert current(labelling) == tuple(itertools.islice((i for i in itertools.count() if i not in shown), 8))


def test_what_is_prepared_is_what_comes(labelling):
    until_ten(labelling)
    for _ in range(3):
        upcoming = labelling.upcoming()
        labelling.turn(len(labelling.session.pages) - 1)
        assert list(current(labelling)) == upcoming


def test_all_marked_has_no_direction(labelling):
    for page in (0, 1):
        for image in current(labelling):
            labelling.mark(page, image, True)
        labelling.turn(page)
    assert labelling.target(labelling.feedback()) is None
    assert current(labelling) == tuple(range(16, 24))


def test_histogram_counts_every_label_once(labelling):
    until_ten(labelling)
    feedback = labelling.feedback()
    chart = histogram(feedback, labelling.target(feedback))
    assert json.loads(json.dumps(chart)) == chart
    assert sum(bin["marked"] for bin in chart["bins"]) == feedback.n_undesired
    assert sum(bin["unmarked"] for bin in chart["bins"]) == feedback.n_desired
    assert chart["bins"][0]["left"] == 0
    assert chart["bins"][-1]["right"] == 100
    assert chart["auc"]["value"] == 1  # z itself decides
    assert chart["weak"] is None
    at = chart["threshold"]["at"]
    assert sum(bin["marked"] for bin in chart["bins"] if bin["right"] < at) <= 1
    assert 0.4 < chart["threshold"]["value"] < 0.8


def test_histogram_of_marks_at_random_warns(labelling):
    rng = torch.Generator().manual_seed(0)
    while len(labelling.session.marked) < FIRST:
        label_page(labelling, lambda z: torch.rand(len(z), generator=rng) < 0.3)
    feedback = labelling.feedback()
    chart = histogram(feedback, labelling.target(feedback))
    assert "mostly chance; label more than" in chart["weak"]
    assert chart["auc"]["low"] < 0.5


def test_refusals(make_model, model, classifier, labelling, path):
    labelling.mark(0, 1, True)
    with pytest.raises(FastUnlearnError, match="was begun with --seed 3; give that, or another --out"):
        Labelling(model, path, seed=4)
    torch.manual_seed(1)
    with pytest.raises(FastUnlearnError, match="labels images of generator"):
        Labelling(make_model(), path, seed=3)
    simulated = path.with_name("simulated")
    label_with_classifier(model, classifier, forget=8, n=50, seed=0, min_undesired=1).save(simulated)
    with pytest.raises(FastUnlearnError, match="was not labelled on this page; give another --out"):
        Labelling(model, simulated, seed=0)
    kept = Feedback.load(path)
    replace(kept, label=1 - kept.label).save(path)
    with pytest.raises(FastUnlearnError, match="its labels are not those that were given on the page"):
        Labelling(model, path, seed=3)
    replace(kept, z=kept.z + 0.01).save(path)
    with pytest.raises(FastUnlearnError, match="this torch draws other latents"):
        Labelling(model, path, seed=3)


VALID = Session(3, ((0, 1, 2), (7, 5)), (1, 1, 0, TURN, 7))


def test_session_round_trip():
    assert Session.loads(VALID.dumps(), "f") == VALID
    assert VALID.marked == {0, 7}
    assert VALID.labelled == [0, 1, 2, 7]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": -1},
        {"seed": True},
        {"seed": 2**63},
        {"pages": [[0, 1, 2], [2, 5]]},
        {"pages": [[0, 1, 2], []]},
        {"pages": [[0, 1, 2]]},
        {"pages": [[0, 1, 2], [7, 5], [8]]},
        {"pages": [[0, 1.0, 2], [7, 5]]},
        {"pages": [[0, "1", 2], [7, 5]]},
        {"pages": 7},
        {"history": [1, 1, 0, 7]},
        {"history": [1, 9, TURN]},
        {"history": [-2, TURN]},
        {"history": None},
        {"order": "best"},
        {"order": ["drawn"]},
    ],
)
def test_a_session_that_cannot_be(changes):
    text = json.dumps({**json.loads(VALID.dumps()), **changes})
    with pytest.raises(FastUnlearnError, match="f: the page's state in it") as caught:
        Session.loads(text, "f")
    assert "give another --out" in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "[]", "{}", "[" * 100_000, '{"seed": NaN}'])
def test_a_session_that_is_none(text):
    with pytest.raises(FastUnlearnError, match="damaged"):
        Session.loads(text, "f")
