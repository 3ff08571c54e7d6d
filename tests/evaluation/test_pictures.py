import errno

import numpy as np
import pytest
import torch
from PIL import Image

from fastunlearn.errors import FastUnlearnError
from fastunlearn.evaluation import (
    Judges,
    Pairs,
    before_after,
    class_chart,
    evaluate,
    find_pairs,
    histogram,
    save_grid,
    save_images,
)
from fastunlearn.evaluation.style import AFTER, FORGET, FORGET_LIGHT, TAG

RED, TINT, BLUE = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in (FORGET, FORGET_LIGHT, TAG))


def read(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def share_of(pixels, colour):
    return (pixels == colour).all(axis=-1)


def test_grid_places_images_in_reading_order(tmp_path):
    levels = torch.linspace(-1, 1, 5)
    save_grid(levels.view(5, 1, 1, 1).expand(5, 1, 32, 32), tmp_path / "grid.png", columns=3)
    grid = read(tmp_path / "grid.png")
    assert grid.shape == (2 * 66 + 2, 3 * 66 + 2, 3)  # 32 pixels, doubled, with lines of 2
    for i, level in enumerate([0, 64, 128, 191, 255]):
        y, x = 2 + i // 3 * 66, 2 + i % 3 * 66
        assert (grid[y : y + 64, x : x + 64] == level).all()
    assert (grid[68:, 134:] == 255).all()  # the place of the sixth stays empty


def test_grid_enlarges_pixels_to_squares(tmp_path):
    image = torch.rand(1, 3, 16, 16) * 2 - 1
    save_grid(image, tmp_path / "grid.png", columns=1)
    bytes_ = ((image[0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert (read(tmp_path / "grid.png")[2:-2, 2:-2] == np.kron(bytes_, np.ones((4, 4, 1)))).all()


def test_grid_clamps_and_does_not_shrink(tmp_path):
    save_grid(torch.full((2, 1, 100, 90), 3.0), tmp_path / "grid.png", columns=8)
    grid = read(tmp_path / "grid.png")
    assert grid.shape == (104, 186, 3)
    assert (grid == 255).all()


def test_grid_is_about_square_without_columns(tmp_path):
    save_grid(torch.zeros(10, 1, 64, 64), tmp_path / "grid.png")
    assert read(tmp_path / "grid.png").shape[:2] == (3 * 66 + 2, 4 * 66 + 2)


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 2, 8, 8), (1, 8, 8)])
@pytest.mark.parametrize("save", [save_grid, save_images])
def test_unusable_images(tmp_path, save, shape):
    with pytest.raises(ValueError, match=r"images must be \[N >= 1, 1 or 3, H, W\], got"):
        save(torch.zeros(shape), tmp_path / "grid.png")


def test_unusable_columns(tmp_path):
    with pytest.raises(ValueError, match="columns must be >= 1, got 0"):
        save_grid(torch.zeros(1, 1, 8, 8), tmp_path / "grid.png", columns=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_written_pixel_for_pixel(tmp_path, channels):
    bytes_ = torch.randint(256, (3, channels, 5, 7))
    save_images(bytes_ / 127.5 - 1, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png", "00002.png"]
    want = bytes_[2].permute(1, 2, 0).expand(5, 7, 3).numpy()
    assert (read(tmp_path / "out" / "00002.png") == want).all()


def test_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    save_grid(torch.zeros(1, 1, 8, 8), path)
    before = path.read_bytes()

    def full(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(FastUnlearnError, match=r"grid\.png: No space left on device"):
        save_grid(torch.ones(1, 1, 8, 8), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_pairs_are_the_first_latents_of_each_class(original, unlearned, classifier):
    pairs = find_pairs(original, unlearned, classifier, columns=12)
    assert torch.equal(pairs.class_before, torch.arange(10).repeat_interleave(12))
    z = torch.tensor([10.0 * i + k for k in range(10) for i in range(12)])[:, None]
    assert torch.equal(pairs.before, original.generate(z))
    assert torch.equal(pairs.after, unlearned.generate(z))
    assert torch.equal(pairs.class_after, unlearned.class_of(z).flatten().long())
    assert pairs.n_classes == 10


def test_pairs_keep_latent_and_noise_seed_together(original, unlearned, classifier):
    find_pairs(original, unlearned, classifier, columns=30)
    seeds = torch.cat([seed for _, seed in original.asked])
    numbers = torch.cat([z for z, _ in original.asked]).flatten()
    ((z, noise_seed),) = unlearned.asked
    first = {(number, seed) for number, seed in zip(numbers.tolist(), seeds.tolist(), strict=True)}
    assert len(z) == 300
    assert all(pair in first for pair in zip(z.flatten().tolist(), noise_seed.tolist(), strict=True))


def test_rare_classes_have_shorter_rows(make_model, classifier):
    rare = make_model(lambda z: torch.where((z % 10 == 8) & (z != 8), 1.0, z % 10))
    pairs = find_pairs(rare, rare, classifier, columns=5, max_draws=500)
    assert pairs.class_before.bincount().tolist() == [5] * 8 + [2, 5]


def test_frames_mark_what_is_of_the_class_and_a_band_where_it_was(tmp_path, original, unlearned, classifier):
    # Latent 8 stays an eight: ten red frames before, one after, both on the tinted band.
    before_after(find_pairs(original, unlearned, classifier), 8, tmp_path / "p.png")
    pixels = read(tmp_path / "p.png")
    rows = share_of(pixels, TINT).sum(axis=1)
    band = np.flatnonzero(rows > 100)
    assert 64 < len(band) < 80
    red = share_of(pixels, RED)
    frame = 4 * 3 * (70 - 3)  # pixels of a frame 70 wide with lines of 3
    half = pixels.shape[1] // 2 + 10  # between the two blocks
    cells = red[band]
    assert cells[:, 140:half].sum() == 9 * frame  # without the first: the label is red too
    assert cells[:, half:].sum() == frame
    above_legend = red[: band[0]], red[band[-1] + 1 : band[-1] + 60]
    assert not any(part.any() for part in above_legend)


def test_a_new_image_of_the_class_is_framed_in_its_row(tmp_path):
    black = torch.full((2, 1, 8, 8), -1.0)
    pairs = Pairs(black, black, torch.tensor([0, 1]), torch.tensor([1, 0]), 2)
    before_after(pairs, 1, tmp_path / "new.png")
    before_after(Pairs(black, black, torch.tensor([0, 1]), torch.tensor([0, 0]), 2), 1, tmp_path / "none.png")
    frames = [share_of(read(tmp_path / name), RED).sum() for name in ("new.png", "none.png")]
    assert 700 < frames[0] - frames[1] <= 4 * 3 * (70 - 3)  # minus what the class tag covers


def test_a_tag_says_that_the_class_changed(tmp_path):
    black = torch.full((3, 1, 8, 8), -1.0)
    before = torch.tensor([0, 1, 2])
    tagged = []
    for after in ([0, 1, 2], [0, 2, 2], [0, 2, 0]):
        before_after(Pairs(black, black, before, torch.tensor(after), 3), 0, tmp_path / "p.png")
        pixels = read(tmp_path / "p.png")
        tagged.append(share_of(pixels, BLUE).sum())
    assert tagged[0] == 0
    assert 200 < tagged[1] < tagged[2] < 64 * 64
    assert tagged[2] > 1.8 * tagged[1]


@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 128, 128), (1, 8, 16)])
def test_any_image_size_and_colour(tmp_path, shape):
    images = torch.rand(4, *shape) * 2 - 1
    pairs = Pairs(images, images, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), 3)
    before_after(pairs, 0, tmp_path / "p.png", caption="two classes")
    assert read(tmp_path / "p.png").std() > 10


def test_caption_takes_a_line(tmp_path):
    images = torch.zeros(2, 1, 8, 8)
    pairs = Pairs(images, images, torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    for name in ("", "numbers"):
        before_after(pairs, 0, tmp_path / f"{name}.png", caption=name)
    without, with_ = (read(tmp_path / name) for name in (".png", "numbers.png"))
    assert len(with_) > len(without)
    assert (with_[len(without) :] < 128).any()


def test_a_long_caption_is_not_cut_off(tmp_path):
    images = torch.zeros(2, 1, 8, 8)
    pairs = Pairs(images, images, torch.tensor([0, 1]), torch.tensor([0, 1]), 2)
    before_after(pairs, 0, tmp_path / "p.png", caption="numbers " * 40)
    pixels = read(tmp_path / "p.png")
    dark = np.flatnonzero((pixels[-40:] < 128).any(axis=(0, 2)))
    assert 0 < pixels.shape[1] - dark[-1] < 60
    assert pixels.shape[1] - dark[-1] > 20


def test_no_image_of_the_class(tmp_path):
    images = torch.zeros(1, 1, 8, 8)
    pairs = Pairs(images, images, torch.tensor([0]), torch.tensor([0]), 2)
    with pytest.raises(FastUnlearnError, match="makes no image of class 1"):
        before_after(pairs, 1, tmp_path / "p.png")
    with pytest.raises(FastUnlearnError, match="knows the classes 0 to 1"):
        before_after(pairs, 2, tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_histogram_shows_the_shares_and_ratios(tmp_path, monkeypatch, original, unlearned, classifier):
    drawn = []
    save = class_chart.save_figure
    monkeypatch.setattr(class_chart, "save_figure", lambda figure, path: drawn.append(figure) or save(figure, path))
    report = evaluate(original, unlearned, Judges(classifier=classifier), 8, n=500)
    histogram(report, tmp_path / "h.png")
    (figure,) = drawn
    shares, ratios = figure.axes
    heights = [bar.get_height() for bar in shares.patches]
    assert heights[::2] == pytest.approx([10.0] * 10)
    assert heights[1::2] == pytest.approx([100 * c.after / 500 for c in report.classes])
    points = {line.get_xdata()[0]: line.get_ydata()[0] for line in ratios.lines}
    assert points == {c.label: c.ratio for c in report.classes if c.ratio is not None}
    assert read(tmp_path / "h.png").shape == (750, 1350, 3)


def test_histogram_colours_what_is_outside_the_bounds(tmp_path, monkeypatch, make_model, classifier):
    drawn = []
    monkeypatch.setattr(class_chart, "save_figure", lambda figure, path: drawn.append(figure))
    # ones and threes become twos, eights become zeros: two ratios of 0, one of 3, one of 2, and ratios of 1
    becomes = torch.tensor([0, 2, 2, 2, 4, 5, 6, 7, 0, 9.0])
    after = make_model(lambda z: becomes[(z % 10).long()])
    histogram(evaluate(make_model(), after, Judges(classifier=classifier), 8, n=500), tmp_path / "h.png")
    colours = {line.get_xdata()[0]: line.get_color() for line in drawn[0].axes[1].lines}
    assert colours == {**dict.fromkeys([0, 4, 5, 6, 7, 9], AFTER), **dict.fromkeys([1, 2, 3], FORGET)}
