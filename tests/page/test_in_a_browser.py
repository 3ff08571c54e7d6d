"""The pages as Chromium draws them: no scrolling sideways, no complaints, and everything that moves does."""

import json

import numpy as np
import pytest
from PIL import Image

from fastunlearn.evaluation.page import compare_runs, write_comparison, write_report

SIZES = pytest.mark.parametrize("width", [360, 768, 1280])
THEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


@pytest.fixture
def report_page(run, report, pairs):
    report["attributes"].append(
        {
            "name": "a very long name of an attribute " * 3,
            "before": 9,
            "after": 0,
            "change": -100.0,
            "low": None,
            "high": None,
        }
    )
    return write_report(run, report, pairs)


@pytest.fixture
def compare_page(tmp_path, report):
    for i, (pul, fid) in enumerate([(90.0, 8.0), (80.0, 9.0), (99.0, 12.0), (98.0, None)]):
        folder = tmp_path / f"a-run-with-a-long-name-{i}"
        folder.mkdir()
        fids = None if fid is None else {**report["fid"], "unlearned_without": fid}
        found = {**report["classifier"], "pul": pul}
        (folder / "report.json").write_text(json.dumps({**report, "classifier": found, "fid": fids}))
    return write_comparison(compare_runs(sorted(tmp_path.glob("a-run-*"))), tmp_path)[0]


@pytest.fixture(params=["report", "compare"])
def page(request):
    return request.getfixturevalue(f"{request.param}_page")


def no_wider_than_the_window(tab):
    outside = """[...document.querySelectorAll("body *")].filter((e) => {
      const r = e.getBoundingClientRect();
      return r.width && !e.closest(".scroll, .unseen, pre, .filter input") && r.right > innerWidth + 1;
    }).map((e) => e.outerHTML.slice(0, 80))"""
    tab.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert tab.run("document.documentElement.scrollWidth") == tab.run("innerWidth")
    assert tab.run(outside) == []


@SIZES
@THEMES
def test_drawn_at_every_size(tab, page, width, dark, tmp_path):
    opened = tab(page, width, dark=dark)
    with Image.open(opened.screenshot(tmp_path / "page.png")) as picture:
        pixels = np.asarray(picture.convert("L"), dtype=float)
    assert pixels.shape[1] == width
    assert pixels.shape[0] > 1500
    assert (np.median(pixels) < 60) if dark else (np.median(pixels) > 240)
    assert pixels.std() > 20  # something is drawn
    no_wider_than_the_window(opened)
    assert opened.complaints() == []


@THEMES
def test_charts_are_not_empty(tab, page, dark):
    """Every chart has shapes of some size, within it, in colours that differ from the page's."""
    opened = tab(page, dark=dark)
    shapes = opened.run("""[...document.querySelectorAll("main svg")].map((svg) => {
      const box = svg.getBoundingClientRect();
      const drawn = [...svg.querySelectorAll("rect, circle, polyline")];
      const parts = drawn.filter((p) => p.getAttribute("width") !== "0.0%");  // a bar of nothing
      const seen = parts.filter((p) => {
        const r = p.getBoundingClientRect();
        return r.width + r.height > 1 && r.right > box.left && r.left < box.right + 6 && r.top < box.bottom + 6;
      });
      const style = parts.map((p) => getComputedStyle(p)).map((s) => (s.fill === "none" ? s.stroke : s.fill));
      return [parts.length, seen.length, style.includes("rgb(0, 0, 0)"), box.width > 40 && box.height > 5];
    })""")
    assert len(shapes) >= 2
    for parts, seen, black, sized in shapes:
        assert parts == seen > 0
        assert not black  # the colour of a shape that no rule names
        assert sized


def test_hovering_a_pair_enlarges_it(tab, report_page):
    opened = tab(report_page)
    height = opened.run("document.documentElement.scrollHeight")
    assert opened.run("document.querySelector('.lens').hidden")
    opened.hover(".tile", 3)
    lens = opened.run("""(() => {
      const lens = document.querySelector(".lens"), box = lens.getBoundingClientRect();
      const [before, after] = lens.querySelectorAll("img");
      const tile = document.querySelectorAll(".tile")[3].querySelectorAll("img");
      return {hidden: lens.hidden, text: lens.innerText, same: before.src === tile[0].src && after.src === tile[1].src,
              width: before.getBoundingClientRect().width, small: tile[0].getBoundingClientRect().width,
              inside: box.left >= 0 && box.right <= innerWidth && box.top >= 0 && box.bottom <= innerHeight};
    })()""")
    assert not lens["hidden"]
    assert lens["same"]
    assert lens["inside"]
    assert lens["width"] > 2 * lens["small"]
    assert "class 1 → 1 · pixels changed by" in lens["text"]
    assert opened.run("document.documentElement.scrollHeight") == height  # nothing moves
    opened.mouse("Moved", 2, 2)
    assert opened.run("document.querySelector('.lens').hidden")


def test_keyboard(tab, report_page):
    opened = tab(report_page, 360)
    opened.run("document.querySelector('#filter-all').focus()")
    opened.key("Tab")
    opened.settle()  # the browser scrolls to the tile
    assert opened.run("scrollY") > 0
    assert opened.run("document.activeElement.className").startswith("tile")
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert not opened.run("document.querySelector('.lens').hidden")
    opened.key("Escape")
    assert opened.run("document.querySelector('.lens').hidden")


def test_tap(tab, report_page):
    opened = tab(report_page, 360, touch=True)
    opened.tap(".tile", 5)
    assert not opened.run("document.querySelector('.lens').hidden")
    assert opened.run(
        "(r => r.left >= 0 && r.right <= innerWidth)(document.querySelector('.lens').getBoundingClientRect())"
    )
    opened.tap("#images-title")
    assert opened.run("document.querySelector('.lens').hidden")


def test_filters(tab, report_page):
    opened = tab(report_page)

    def shown():
        visible = "[...document.querySelectorAll('.tile')].filter((t) => t.offsetParent)"
        return opened.run(f"{visible}.map((t) => t.dataset.gone !== undefined)")

    assert len(shown()) == 20
    opened.click("label[for=filter-gone]")
    assert shown() == [True, True]
    assert opened.run("[...document.querySelectorAll('.row')].filter((r) => r.offsetParent).length") == 1
    opened.click("label[for=filter-stay]")
    assert shown() == [False] * 18
    opened.click("label[for=filter-most]")
    assert len(shown()) == 12


@THEMES
def test_theme_button(tab, page, dark):
    opened = tab(page, dark=dark)
    ground = "getComputedStyle(document.body).backgroundColor"
    light, night = "rgb(255, 255, 255)", "rgb(17, 22, 28)"
    assert opened.run(ground) == (night if dark else light)
    opened.click("[data-theme-toggle]")
    assert opened.run(ground) == (light if dark else night)
    opened.click("[data-theme-toggle]")
    assert opened.run(ground) == (night if dark else light)
    assert opened.complaints() == []
    opened.run("localStorage.clear()")


def test_motion_only_where_it_is_wanted(tab, report_page):
    for reduced, motion in ((True, "none"), (False, "appear")):
        opened = tab(report_page, reduced_motion=reduced)
        opened.hover(".tile")
        assert opened.run("getComputedStyle(document.querySelector('.lens')).animationName") == motion


def test_print(tab, report_page):
    opened = tab(report_page, dark=True)
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert opened.run("getComputedStyle(document.querySelector('.bar')).display") == "none"
    opened.run("dispatchEvent(new Event('beforeprint'))")
    assert opened.run("[...document.querySelectorAll('details')].every((part) => part.open)")


def test_injected_markup_does_not_run(tab, run, report, pairs):
    report["not_measured"] = [
        {"what": "<script>document.title = 'broken'</script>", "why": "<img src=x onerror=alert(1)>"}
    ]
    opened = tab(write_report(run, report, pairs))
    assert opened.run("document.title") == "Forgetting class 8 · forget-8"
    assert opened.complaints() == []
    opened.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 1\">')")
    opened.run("new Promise((done) => setTimeout(done, 100))")
    assert opened.run("document.title") == "Forgetting class 8 · forget-8"  # the policy stops what escaping let through
    assert any("Content Security Policy" in complaint for complaint in opened.complaints())


def test_comparing(tab, compare_page):
    opened = tab(compare_page)
    opened.hover("main circle", 2)
    assert opened.run("document.querySelector('.lens').innerText") == (
        "a-run-with-a-long-name-2\nPUL 99.0% (95.5 to 99.4)\nFID 12.0"
    )

    def column(i):
        return opened.run(f"[...document.querySelectorAll('tbody tr')].map((row) => row.children[{i}].innerText)")

    opened.click("th:nth-child(2) button")
    assert [cell[:4] for cell in column(1)] == ["80.0", "90.0", "98.0", "99.0"]
    assert opened.run("document.querySelector('th:nth-child(2)').getAttribute('aria-sort')") == "ascending"
    opened.click("th:nth-child(2) button")
    assert [cell[:4] for cell in column(1)] == ["99.0", "98.0", "90.0", "80.0"]
    for _ in range(2):  # what was not measured is last in both orders
        opened.click("th:nth-child(4) button")
        assert column(3)[-1] == "-"
    opened.click("th:nth-child(1) button")
    assert column(0)[0].startswith("a-run-with-a-long-name-0")
