"""Their scripts, untouched, by ``python -m fastunlearn.compat``, beside the same scripts on their own ops."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from checkouts import HERE, checkout, run
from PIL import Image

SEEDED = HERE / "seeded.py"
LEVELS = 1  # of 255, by which a pixel may round to the other side


@pytest.fixture
def images(tmp_path):
    """16 images of noise, 32² and 8²."""
    rng = np.random.default_rng(0)
    for size in (32, 8):
        folder = tmp_path / f"images-{size}" / "all"
        folder.mkdir(parents=True)
        for number in range(16):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return tmp_path


def assert_same_images(ours: Path, theirs: Path, expected: int) -> None:
    files = sorted(path.relative_to(theirs) for path in theirs.glob("**/*.png"))
    assert len(files) == expected
    for file in files:
        a, b = (np.asarray(Image.open(folder / file)).astype(int) for folder in (ours, theirs))
        assert np.abs(a - b).max() <= LEVELS, file
        assert b.std() > 5, f"{file} shows nothing"


def whole_error(ours, theirs):
    difference = sum((a.double() - b.double()).square().sum() for a, b in zip(ours, theirs, strict=True))
    return (difference / sum(b.double().square().sum() for b in theirs)).sqrt().item()


def test_rosinality(launched, natively, images):
    """prepare_data.py, then train.py, whose first step has R1 and path length, then generate.py from its checkpoint."""
    folder = checkout("rosinality")
    launched("rosinality", folder / "prepare_data.py", "--out", "data", "--size", "8", "--n_worker", "1", "images-8")
    train = ["--size", "8", "--batch", "2", "--channel_multiplier", "1", "--n_sample", "4", images / "data"]
    generate = ["--size", "8", "--pics", "2", "--sample", "2", "--channel_multiplier", "1", "--truncation", "0.7"]
    for launch, where in ((launched, images), (natively, natively.folder)):
        for name in ("sample", "checkpoint"):
            (where / name).mkdir()
        said = launch("rosinality", SEEDED, folder / "train.py", "--iter", "2", *train)
        assert "path: " in said
    ours, theirs = (
        torch.load(where / "checkpoint" / "000000.pt", weights_only=False) for where in (images, natively.folder)
    )
    for optimizer in ("g_optim", "d_optim"):
        # The mean squares of the step's gradients: in the weights Adam leaves little but their signs.
        squares = [
            [state["exp_avg_sq"].sqrt() for state in saved[optimizer]["state"].values()] for saved in (ours, theirs)
        ]
        assert whole_error(*squares) <= 1e-3
    for launch in (launched, natively):
        launch("rosinality", SEEDED, folder / "generate.py", "--ckpt", images / "checkpoint" / "000000.pt", *generate)
    assert_same_images(images / "sample", natively.folder / "sample", 2)


@pytest.fixture
def pickled(natively, tmp_path):
    """pickled(family, network) → a pickle of theirs, written by their own code."""

    def write(family, network):
        path = tmp_path / f"{network}.pkl"
        run(HERE / "pickled.py", checkout(family), family, network, path)
        return path

    return write


def test_stylegan2_ada_generates(launched, natively, pickled, tmp_path):
    """generate.py and style_mixing.py, from a pickle that carries its own source."""
    folder, network = checkout("stylegan2_ada"), pickled("stylegan2_ada", "stylegan2")
    mixing = ["--rows", "0,1", "--cols", "2,3", "--styles", "0-2"]
    for launch in (launched, natively):
        launch("stylegan2_ada", folder / "generate.py", "--network", network, "--seeds", "0-3", "--outdir", "out/one")
        launch("stylegan2_ada", folder / "style_mixing.py", "--network", network, *mixing, "--outdir", "out/mixed")
    assert_same_images(tmp_path / "out", natively.folder / "out", 4 + 8 + 1)


@pytest.mark.parametrize("network", ["stylegan2", "stylegan3-t", "stylegan3-r"])
def test_stylegan3_generates(launched, natively, pickled, tmp_path, network):
    folder, path = checkout("stylegan3"), pickled("stylegan3", network)
    for launch in (launched, natively):
        launch("stylegan3", folder / "gen_images.py", "--network", path, "--seeds", "0-2", "--outdir", "out")
    assert_same_images(tmp_path / "out", natively.folder / "out", 3)


def losses(folder: Path) -> list[dict[str, float]]:
    """What a run of NVIDIA's says in each of its ticks."""
    (path,) = folder.glob("**/stats.jsonl")
    ticks = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value["mean"] for name, value in tick.items() if name.startswith("Loss/")} for tick in ticks]


def assert_same_training(ours: Path, theirs: Path) -> None:
    """The first tick is the first step; the last, thirty steps later, must be near: Adam amplifies rounding."""
    (first, *_, last), (expected_first, *_, expected_last) = losses(ours), losses(theirs)
    assert {"Loss/r1_penalty", "Loss/D/loss", "Loss/G/loss"} <= first.keys()
    assert first == pytest.approx(expected_first, rel=1e-3, abs=1e-4)
    for name in ("Loss/D/loss", "Loss/G/loss"):
        assert last[name] == pytest.approx(expected_last[name], rel=0.1), name
    assert list(ours.glob("**/network-snapshot-*.pkl"))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("network", ["stylegan2", pytest.param("stylegan3-t", marks=pytest.mark.slow)])
def test_stylegan3_trains(launched, natively, images, network):
    """train.py for 1000 images; its loader's worker is a spawned process, in which their code must be ours too."""
    folder = checkout("stylegan3")
    options = "--gpus=1 --batch=32 --gamma=1 --kimg=1 --tick=1 --snap=1 --cbase=256 --cmax=16 --map-depth=2 --aug=noaug"
    options = [*options.split(), "--metrics=none", "--workers=1", "--fp32=1", f"--cfg={network}"]
    for launch in (launched, natively):
        launch("stylegan3", folder / "train.py", f"--data={images / 'images-32'}", "--outdir=runs", *options)
    assert_same_training(images / "runs", natively.folder / "runs")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_stylegan2_ada_trains(launched, natively, images):
    """train.py for 1000 images of 8², its widths 512."""
    folder = checkout("stylegan2_ada")
    options = ["--gpus=1", "--kimg=1", "--batch=32", "--snap=1", "--aug=noaug", "--metrics=none", "--fp32=1"]
    options += ["--workers=1", "--outdir=runs"]
    for launch in (launched, natively):
        launch("stylegan2_ada", folder / "train.py", f"--data={images / 'images-8'}", *options)
    assert_same_training(images / "runs", natively.folder / "runs")


def test_lucidrains_trains(launched, images):
    """Three steps of their Trainer, a checkpoint, and images from it."""
    checkout("lucidrains")
    said = launched("lucidrains", HERE / "lucidrains_training.py", images / "images-32" / "all")
    assert "losses " in said
    assert list(images.glob("results/**/*.jpg"))
