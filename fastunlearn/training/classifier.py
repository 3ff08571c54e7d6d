"""Supervised training of the digit classifier."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..config import require_range
from ..data import ImageDataset
from ..errors import FastUnlearnError
from ..files import state_sha256
from ..metrics import ClassifierError
from ..models.classifiers import class_logits
from ..models.lenet import LeNet, read_lenet


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Recipe of `train_classifier`; the only place of its defaults.

    Args:
        widths: channels of LeNet's two convolutions.
        epochs: passes over the training set, > 0.
        batch: images per step.
        lr: peak learning rate of Adam under a one-cycle schedule.
        weight_decay: decoupled (AdamW), per unit of learning rate.
        shift: largest random translation, pixels.
        rotation: largest random rotation, degrees.
        zoom: largest random change of scale, as a share of 1.
        ema: decay of the averaged weights, per step; the average is what is kept.
        seed: of weights, order and augmentation; the same seed gives the same weights on one machine.
    """

    widths: tuple[int, int] = (16, 32)
    epochs: int = 12
    batch: int = 128
    lr: float = 4e-3
    weight_decay: float = 1e-2
    shift: float = 2.0
    rotation: float = 10.0
    zoom: float = 0.1
    ema: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        require_range(
            self,
            epochs=(1, math.inf),
            batch=(1, math.inf),
            lr=(0, math.inf),
            weight_decay=(0, math.inf),
            shift=(0, 32),
            rotation=(0, 180),
            zoom=(0, 0.9),
            ema=(0, 0.99999),
        )


@dataclass(frozen=True)
class ClassifierRun:
    """A trained classifier, how it was made, its errors on held-out images and the seconds that it took."""

    model: LeNet
    config: ClassifierConfig
    error: ClassifierError
    seconds: float

    def card(self) -> dict[str, Any]:
        """What a model card says of it, in plain numbers and lists, ready for JSON or YAML."""
        return {
            "accuracy": self.error.accuracy,
            "false_positive_rate": self.error.false_positive_rate.tolist(),
            "false_negative_rate": self.error.false_negative_rate.tolist(),
            "confusion": self.error.confusion.tolist(),
            "config": asdict(self.config),
            "seconds": round(self.seconds, 1),
            "sha256": state_sha256(self.model.state_dict()),
        }

    def save(self, path: str | Path) -> None:
        """Write the weights with the card as metadata, so that the file knows its own errors."""
        self.model.save(path, {"card": json.dumps(self.card())})


def read_classifier_error(path: str | Path) -> ClassifierError | None:
    """The errors on held-out images that a classifier file tells of itself, or None if it is silent.

    Raises:
        FastUnlearnError: missing, damaged, or not a LeNet of this project.
    """
    card = read_lenet(path)[0].get("card")
    try:
        return ClassifierError(np.array(json.loads(card)["confusion"], np.int64)) if card else None
    except (KeyError, TypeError, ValueError) as error:
        raise FastUnlearnError(f"{path}: its card is damaged; make the classifier again") from error


def train_classifier(
    dataset: ImageDataset,
    test: ImageDataset,
    config: ClassifierConfig,
    on_epoch: Callable[[int, float], None] | None = None,
) -> ClassifierRun:
    """Train a LeNet on `dataset` and measure it once, at the end, on `test`.

    Args:
        dataset: labelled images of 32 × 32 pixels.
        test: labelled images that play no part in the training.
        config: the recipe.
        on_epoch: called with the number of finished epochs and the mean training loss of the last one.

    Raises:
        FastUnlearnError: a set is empty, without labels or of another size, or the loss is no longer finite.
    """
    for part in (dataset, test):
        if part.labels is None or not len(part):
            raise FastUnlearnError(f"{part.name}: a classifier needs labelled images, one subfolder per class")
        if part.image_shape[1:] != (32, 32):
            raise FastUnlearnError(f"{part.name}: the classifier looks at 32 x 32 pixels; load it with size 32")
    started = time.perf_counter()
    n_classes = 1 + int(max(dataset.labels.max(), test.labels.max()))
    rng = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = LeNet(dataset.image_shape[0], n_classes, config.widths)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    steps = config.epochs * math.ceil(len(dataset) / config.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)
    for epoch in range(config.epochs):
        total = 0.0
        for indices in torch.randperm(len(dataset), generator=rng).split(config.batch):
            images = augment(dataset.batch(indices), config, rng)
            loss = F.cross_entropy(model(images), dataset.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += loss.item() * len(indices)
        if not math.isfinite(total):
            raise FastUnlearnError(f"classifier: the loss is {total} in epoch {epoch + 1}; lower lr")
        if on_epoch:
            on_epoch(epoch + 1, total / len(dataset))
    kept = average.module.eval().requires_grad_(False)
    error = ClassifierError.from_predictions(test.labels, class_logits(kept, test).argmax(1), n_classes)
    return ClassifierRun(kept, config, error, time.perf_counter() - started)


def augment(images: Tensor, config: ClassifierConfig, rng: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image by its own random amounts, filling with −1 (background)."""
    n, _, height, width = images.shape
    angle, zoom, dx, dy = (torch.rand(4, n, generator=rng) * 2 - 1).unbind()
    angle = angle * math.radians(config.rotation)
    cos, sin = (f(angle) / (1 + zoom * config.zoom) for f in (torch.cos, torch.sin))
    # grid_sample's coordinates span [−1, 1] over the image, so one pixel is 2 / width.
    dx, dy = dx * config.shift * 2 / width, dy * config.shift * 2 / height
    theta = torch.stack([torch.stack([cos, -sin, dx], 1), torch.stack([sin, cos, dy], 1)], 1)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    # Zero padding is the background once it is shifted to 0.
    return F.grid_sample(images + 1, grid, padding_mode="zeros", align_corners=False) - 1
