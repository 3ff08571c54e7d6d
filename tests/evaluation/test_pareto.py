import pytest
from PIL import Image

from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import pareto, pareto_chart, pareto_front


def rows(*points):
    return [{"label": f"run {i}", "pul": pul, "fid": fid} for i, (pul, fid) in enumerate(points)]


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([(50, 5)], [0]),
        ([(50, 5), (90, 8), (80, 9), (95, 12), (94, 12), (10, 5)], [0, 1, 3]),
        ([(90, 8), (50, 5)], [1, 0]),  # by ascending PUL
        ([(90, 8), (90, 8), (90, 9)], [0, 1]),  # equal rows are all on it
        ([(90, 8), (91, 8), (91, 7)], [2]),
        ([(-20, 3), (0, 4)], [0, 1]),
        ([], []),
    ],
)
def test_front(points, front):
    assert pareto_front(rows(*points)) == front


@pytest.fixture
def figure(monkeypatch):
    drawn = []
    save = pareto.save_figure
    monkeypatch.setattr(pareto, "save_figure", lambda figure, path: drawn.append(figure) or save(figure, path))
    return drawn


def test_chart(tmp_path, figure):
    points = [(50, 5), (90, 8), (80, 9), (95, 12)]
    pareto_chart(rows(*points), tmp_path / "p.png", chosen="run 1", min_pul=85, max_fid=10)
    (ax,) = figure[0].axes
    tried, front, *numbered, ring = ax.lines
    assert list(zip(*tried.get_data(), strict=True)) == points
    assert list(zip(*front.get_data(), strict=True)) == [(50, 5), (90, 8), (95, 12)]
    assert [line.get_label() for line in numbered] == ["1  run 0", "2  run 1", "3  run 3"]
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0], ring.get_label()) == (90, 8, "chosen")
    (accepted,) = ax.collections
    box = accepted.get_paths()[0].get_extents()
    assert (box.x0, box.y1) == (85, 10)
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (1350, 750)


def test_chart_with_one_row_and_one_bound(tmp_path, figure):
    pareto_chart(rows((95, 7)), tmp_path / "p.png", max_fid=6)
    (ax,) = figure[0].axes
    left, right = ax.get_xlim()
    box = ax.collections[0].get_paths()[0].get_extents()
    assert (box.x0, box.x1, box.y1) == (left, right, 6)
    assert box.y0 == ax.get_ylim()[0] < 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pul": None}, r"run 0 must have finite numbers pul and fid, got \(None, 8\)"),
        ({"fid": float("nan")}, "run 0 must have finite numbers"),
        ({"fid": "8"}, "run 0 must have finite numbers"),
    ],
)
def test_broken_rows(tmp_path, changes, message):
    with pytest.raises(FastUnlearnError, match=message):
        pareto_chart([{**rows((90, 8))[0], **changes}], tmp_path / "p.png")


def test_missing_column():
    with pytest.raises(FastUnlearnError, match="must have finite numbers pul and fid"):
        pareto_front([{"label": "run 0", "pul": 3.0}])


def test_no_rows_or_unknown_choice(tmp_path):
    with pytest.raises(FastUnlearnError, match="there are no rows to draw"):
        pareto_chart([], tmp_path / "p.png")
    with pytest.raises(FastUnlearnError, match="no row is labelled 'best'"):
        pareto_chart(rows((90, 8)), tmp_path / "p.png", chosen="best")
    assert list(tmp_path.iterdir()) == []
