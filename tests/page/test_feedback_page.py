"""The page of feedback as Chromium draws it: a person marks, goes on, comes back, and trains from what is kept."""

import signal
import threading

import pytest
import torch
from feedback_server import Server
from PIL import Image

from fastunlearn.bundle import Bundle
from fastunlearn.cli import main
from fastunlearn.feedback import Feedback
from fastunlearn.feedback.page import Labelling, Page, address, listen

GAN = "mnist32-vae"
READY = "document.querySelectorAll('.sample').length && !document.querySelector('.sample img.loading')"
PRESSED = """[...document.querySelectorAll(".sample")].flatMap((tile, i) =>
  tile.getAttribute("aria-pressed") === "true" ? [i] : [])"""
IMAGES = """[...document.querySelectorAll(".sample")].map((tile) => Number(tile.dataset.image))"""
TABS = "[...document.querySelectorAll('.sample')].map((tile) => tile.tabIndex)"
FOCUS = """[...document.querySelectorAll(".sample")].indexOf(document.activeElement)"""
COUNTER = """document.querySelector(".counter").innerText.replace(/\\s+/g, " ")"""
CHART = "!document.querySelector('[data-chart]').hidden"
KEPT = "document.querySelector('[data-marked]').textContent === '{}'"


@pytest.fixture(scope="module")
def model():
    return Bundle(GAN).model()


@pytest.fixture
def serve(model):
    """Serve a labelling in this process; gives its address."""
    servers = []

    def start(path, **options):
        page = Page(Labelling(model, path, **options), "the-token", GAN, f"fastunlearn unlearn … {path.name}")
        server = listen(page)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        return address(server, page, "the-token")

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()


def ready(opened):
    opened.wait(READY)
    return opened


def marked(opened, n):
    """Wait until the server has n marks."""
    opened.wait(KEPT.format(n))


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path, "--gan", GAN, "--out", "thick.safetensors") as started:
        yield started


def test_a_person_marks_is_interrupted_goes_on_and_trains(tab, server, serve, tmp_path):
    path = tmp_path / "thick.safetensors"
    opened = ready(tab(server.url))
    assert opened.run("location.href") == server.url.partition("?")[0]  # the token is gone from the address
    assert "token" not in opened.run("document.referrer")
    assert opened.run(IMAGES) == list(range(24))

    for i in (0, 2, 4, 7, 8):  # by mouse
        opened.click(".sample", i)
    marked(opened, 5)
    assert opened.run(PRESSED) == [0, 2, 4, 7, 8]
    opened.key("ArrowRight")  # by keyboard, from where it clicked last
    assert opened.run(FOCUS) == 9
    opened.key(" ")
    opened.key("ArrowDown")
    wide = opened.run("getComputedStyle(document.querySelector('.samples')).gridTemplateColumns.split(' ').length")
    assert opened.run(FOCUS) == 9 + wide
    opened.key("Enter")
    opened.key("ArrowLeft")
    opened.key("ArrowUp")
    assert opened.run(FOCUS) == 8
    opened.key(" ")  # takes the mark back
    marked(opened, 6)
    assert opened.run(PRESSED) == [0, 2, 4, 7, 9, 9 + wide]
    opened.key("u")
    marked(opened, 7)
    assert opened.run(PRESSED) == [0, 2, 4, 7, 8, 9, 9 + wide]
    assert opened.run(COUNTER) == "7 marked / 7 seen"

    opened.key("n")
    opened.wait("document.querySelector('[data-page]').textContent === '2'")
    ready(opened)
    assert opened.run(IMAGES) == list(range(24, 48))
    assert opened.run(PRESSED) == []
    assert opened.run(FOCUS) == 0
    assert opened.run(COUNTER) == "7 marked / 24 seen"
    opened.click("[data-undo]")  # back to the first page, with its marks
    opened.wait("document.querySelector('[data-page]').textContent === '1'")
    assert opened.run(PRESSED) == [0, 2, 4, 7, 8, 9, 9 + wide]
    opened.click("[data-turn]")
    opened.wait("document.querySelector('[data-page]').textContent === '2'")
    assert not opened.run(CHART)
    assert "Mark 3 more" in opened.run("document.querySelector('[data-why]').innerText")
    for i in range(13):
        opened.click(".sample", i)
    marked(opened, 20)
    opened.wait(CHART)

    opened.reload()
    ready(opened)
    assert opened.run(PRESSED) == list(range(13))
    assert opened.run(COUNTER) == "20 marked / 37 seen"
    assert opened.complaints() == []

    server.end(signal.SIGKILL)
    opened.click(".sample", 20)
    opened.wait("!document.querySelector('[data-alert]').hidden")
    assert "The server does not answer, and what you did last was not kept" in opened.run(
        "document.querySelector('[data-alert]').innerText"
    )
    assert opened.run(PRESSED) == list(range(13))

    again = ready(tab(serve(path)))
    assert again.run(PRESSED) == list(range(13))
    again.wait(CHART)
    again.key("n")
    again.wait("document.querySelector('[data-page]').textContent === '3'")
    uncertain = again.run(IMAGES)
    assert len(set(uncertain) & set(range(48, 72))) < 24  # not as they were drawn
    assert min(uncertain) >= 48
    assert again.complaints() == []

    feedback = Feedback.load(path)
    assert (feedback.n_undesired, feedback.n_desired, feedback.source) == (20, 28, "person")
    flags = ("--steps", "3", "--batch-size", "4", "--no-progress", "--grid-every", "0", "--threshold", "pooled")
    start = ("unlearn", "feature-unlearn", "--gan", GAN, "--feedback", str(path), "--out", str(tmp_path / "run"))
    with pytest.warns(UserWarning, match="mostly chance"):  # the first images of a page are no feature
        assert main([*start, *flags]) == 0
    before, after = Bundle(GAN).model(), Bundle(tmp_path / "run/bundle").model()
    assert not torch.equal(before.generate(feedback.z), after.generate(feedback.z))


@pytest.fixture
def begun(serve, model, tmp_path):
    """A page on which twelve images, those of the largest first coordinate, are marked."""
    path = tmp_path / "begun.safetensors"
    labelling = Labelling(model, path)
    for page in (0, 1, 2):
        z = labelling.stream(labelling.session.pages[-1])[0]
        for i in z[:, 0].topk(4).indices.tolist():
            labelling.mark(page, labelling.session.pages[-1][i], True)
        labelling.turn(page)
    return lambda: serve(path)


@pytest.mark.parametrize(("width", "touch"), [(360, True), (768, False), (1280, False)])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_drawn_at_every_size(tab, begun, width, touch, dark, tmp_path):
    opened = ready(tab(begun(), width, dark=dark, touch=touch))
    opened.wait(CHART)
    assert opened.run("document.documentElement.scrollWidth") == opened.run("innerWidth") == width
    outside = """[...document.querySelectorAll("body *")].filter((e) => {
      const r = e.getBoundingClientRect();
      return r.width && !e.closest(".unseen, .filter input") && (r.right > innerWidth + 1 || r.left < -1);
    }).map((e) => e.outerHTML.slice(0, 80))"""
    assert opened.run(outside) == []
    side = opened.run("document.querySelector('.sample img').getBoundingClientRect().width")
    assert side % 32 == 0  # every pixel of the image is a square of whole pixels
    assert opened.run("getComputedStyle(document.querySelector('.sample img')).imageRendering") == "pixelated"
    with Image.open(opened.screenshot(tmp_path / "page.png")) as picture:
        assert picture.convert("L").getpixel((5, picture.height - 5)) in ((21, 22, 23) if dark else (255,))
    assert opened.complaints() == []


def test_histogram(tab, begun):
    opened = ready(tab(begun()))
    opened.wait(CHART)
    shapes = opened.run("""(() => {
      const svg = document.querySelector(".histogram svg"), frame = svg.getBoundingClientRect();
      const boxes = (kind) => [...svg.querySelectorAll(kind)].map((e) => e.getBoundingClientRect());
      const limit = boxes(".limit")[0].x, label = document.querySelector("[data-threshold]").getBoundingClientRect();
      return {
        text: document.querySelector(".legends").innerText.replace(/\\s+/g, " "),
        inside: boxes("rect, line").every((b) => b.left > frame.left - 1 && b.right < frame.right + 1
          && b.top > frame.top - 1 && b.bottom < frame.bottom + 1),
        above: boxes(".gone").every((b) => b.bottom <= frame.y + frame.height / 2 + 1),
        below: boxes(".before").every((b) => b.top >= frame.y + frame.height / 2 - 1),
        bars: [boxes(".gone").length, boxes(".before").length],
        limit: limit > frame.left && limit < frame.right && label.left < limit && label.right > limit,
        colour: getComputedStyle(svg.querySelector(".gone")).fill,
        spoken: svg.getAttribute("aria-label"),
      };
    })()""")
    assert shapes["text"] == "12 marked 60 not"
    assert shapes["inside"]
    assert shapes["above"]
    assert shapes["below"]
    assert min(shapes["bars"]) >= 3
    assert shapes["limit"]
    assert shapes["colour"] == "rgb(214, 69, 69)"
    assert shapes["spoken"].startswith("Histogram: 12 marked images, 60 others; threshold ")
    opened.hover(".histogram g", 12)
    assert "marked" in opened.run("document.querySelector('.lens').innerText")


def test_order_of_the_next_images(tab, begun):
    opened = ready(tab(begun()))
    opened.click("label[for=order-drawn]")
    opened.key("n")  # as soon as the choice has been told
    opened.wait("document.querySelector('[data-page]').textContent === '5'")
    seen = opened.run(IMAGES)
    assert seen == sorted(seen)
    opened.reload()
    ready(opened)
    assert opened.run("document.querySelector('#order-drawn').checked")


def test_for_those_who_do_not_see_it(tab, serve, tmp_path):
    opened = ready(tab(serve(tmp_path / "f.safetensors", per_page=6)))
    assert opened.run("document.querySelector('.sample').getAttribute('aria-label')") == "Image 1 of 6"
    assert opened.run(TABS) == [0, -1, -1, -1, -1, -1]
    opened.key("ArrowRight")
    outline = (
        "getComputedStyle(document.activeElement).outlineStyle + getComputedStyle(document.activeElement).outlineWidth"
    )
    assert opened.run(outline) == "solid2px"
    unnamed = """[...document.querySelectorAll("button, [role=group], [role=img], aside, section")].filter((e) =>
      e.checkVisibility() && !(e.ariaLabel || e.getAttribute("aria-labelledby") || e.innerText)).length"""
    assert opened.run(unnamed) == 0
    assert opened.run("document.querySelector('.counter').getAttribute('role')") == "status"
    for key, at in (("End", 5), ("ArrowRight", 5), ("Home", 0), ("ArrowUp", 0)):
        opened.key(key)
        assert opened.run(FOCUS) == at
    assert opened.run("document.querySelectorAll('h1').length") == 1
    opened.key("Tab")
    opened.key("Tab")  # Undo cannot be pressed yet
    assert opened.run("document.activeElement.closest('.side, .controls') !== null")


def test_two_windows(tab, serve, tmp_path):
    url = serve(tmp_path / "f.safetensors")
    first, second = ready(tab(url)), ready(tab(url))
    first.front()
    first.click(".sample", 1)
    marked(first, 1)
    second.front()
    second.click(".sample", 2)
    marked(second, 2)
    assert second.run(PRESSED) == [1, 2]
    second.key("n")
    second.wait("document.querySelector('[data-page]').textContent === '2'")
    first.run("document.querySelectorAll('.sample')[3].click()")  # on what it still shows
    first.wait("document.querySelector('[data-page]').textContent === '2'")
    assert "done on another page" in first.run("document.querySelector('[data-alert]').innerText")
    assert first.run(PRESSED) == []
    assert Feedback.load(tmp_path / "f.safetensors").n_undesired == 2
    second.key("u")
    second.wait("document.querySelector('[data-page]').textContent === '1'")
    first.front()  # which looks where things stand
    first.wait("document.querySelector('[data-page]').textContent === '1'")
    assert first.run(PRESSED) == [1, 2]
    assert first.run("document.querySelector('[data-alert]').hidden")


def test_marks_faster_than_answers(tab, serve, tmp_path):
    """Nothing that was done while requests are under way is lost or flickers back."""
    opened = ready(tab(serve(tmp_path / "f.safetensors")))
    opened.run("document.querySelectorAll('.sample').forEach((tile) => tile.click())")
    assert opened.run(PRESSED) == list(range(24))
    opened.key("n")
    opened.wait("document.querySelector('[data-page]').textContent === '2'")
    assert opened.run(COUNTER) == "24 marked / 24 seen"
    assert Feedback.load(tmp_path / "f.safetensors").n_undesired == 24
    opened.wait("document.querySelector('[data-why]').innerText.includes('images that may stay')")


def test_tap(tab, serve, tmp_path):
    opened = ready(tab(serve(tmp_path / "f.safetensors"), 360, touch=True))
    opened.tap(".sample", 4)
    marked(opened, 1)
    assert opened.run(PRESSED) == [4]
    assert opened.run("getComputedStyle(document.querySelector('.keys')).display") == "none"
    assert opened.run("getComputedStyle(document.querySelector('.controls')).position") == "sticky"


def test_injected_markup_does_not_run(tab, serve, tmp_path):
    opened = ready(tab(serve(tmp_path / "f.safetensors")))
    markup = '<img src="/x" onerror="document.title = 1"><p style="color: red" id="p">'
    opened.run(f"document.body.insertAdjacentHTML('beforeend', '{markup}')")
    opened.run("new Promise((done) => setTimeout(done, 100))")
    assert opened.run("document.title") == f"Feedback on {GAN}"
    assert opened.run("getComputedStyle(document.querySelector('#p')).color") != "rgb(255, 0, 0)"
    assert opened.run("fetch('https://example.com/').then(() => 1, () => 0)") == 0


def test_a_generator_that_fails(tab, serve, model, monkeypatch, tmp_path):
    url = serve(tmp_path / "f.safetensors", per_page=4)
    ready(tab(url))

    def fail(z, noise_seed):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", fail)
    opened = tab(serve(tmp_path / "g.safetensors", per_page=4, seed=1))
    opened.wait("document.querySelectorAll('.failed').length === 4")
    assert "could not be made" in opened.run("document.querySelector('.sample').innerText")
