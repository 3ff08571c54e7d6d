"""What the judges see in the images of one generator, and in real ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..data import ImageDataset, from_uint8, to_uint8
from ..errors import FastUnlearnError
from ..feedback.latents import Purpose, generate, latent_batches
from ..feedback.session import generator_sha256
from ..files import state_sha256
from ..metrics import DIGIT_FID_SAMPLES, FEATURES, FeatureStatistics
from ..models.classifiers import class_logits, features
from ..models.protocol import GenerativeModel
from .judges import Judges
from .subject import Subject

PICTURES = 500
"""Images that an observation keeps, for measures that look at pixels; the first of its latents."""

PICTURE_BYTES = 1 << 28
"""Of the kept images together, at most; large images are fewer than `PICTURES`."""

QUALITY_SAMPLES = 5000
"""Images a side, at most, of the comparisons whose cost grows with the square of their number."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What the judges saw in n images of one generator; the original's can be kept and compared many times.

    Args:
        z: [n, d] float32, the latents.
        logits: [n, K] float32, the classifier's.
        second_classes: [n] int64, the second classifier's, or None.
        attributes: [n] booleans by the attribute's name.
        features: [n, d] float32, or None.
        statistics: of the features, or None.
        pictures: [m, C, H, W] uint8, the first images.
        generator: SHA-256 of the weights.
        latents: (n, seed, purpose) of the latents.
        judges: SHA-256 of the judges.
        measures: [n] float64 by the name of the measure.
    """

    z: Tensor
    logits: Tensor
    second_classes: Tensor | None
    attributes: Mapping[str, Tensor]
    features: Tensor | None
    statistics: FeatureStatistics | None
    pictures: Tensor
    generator: str
    latents: tuple[int, int, Purpose]
    judges: dict[str, str]
    measures: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Images."""
        return len(self.logits)

    @property
    def n_classes(self) -> int:
        """Classes that the classifier knows."""
        return self.logits.shape[1]

    @property
    def classes(self) -> Tensor:
        """[n] int64, the classifier's."""
        return self.logits.argmax(dim=1)

    def shows(self, subject: Subject) -> Tensor:
        """[n] booleans: which images are of the class, or have the measured feature."""
        if isinstance(subject, int):
            return self.classes == subject
        return subject.shown(self.measures[subject.name])

    def require_features(self) -> None:
        """Refuse an observation by judges that see no features.

        Raises:
            FastUnlearnError: there are none.
        """
        if self.features is None:
            raise FastUnlearnError("the classifier gives no features to compare")

    def images(self) -> Tensor:
        """The kept pictures, [m, C, H, W] float32 in [−1, 1]."""
        return from_uint8(self.pictures)


def observe(
    model: GenerativeModel,
    judges: Judges,
    *,
    n: int = DIGIT_FID_SAMPLES,
    seed: int = 0,
    purpose: Purpose = "report",
    measures: Sequence[str] = (),
    progress: str | None = None,
) -> Observation:
    """Generate n images, a batch at a time, and let the judges look at them.

    Args:
        model: the generator.
        judges: who looks.
        n: images, at least 2.
        seed: of the latents.
        purpose: which latents the seed names.
        measures: names in `metrics.FEATURES`.
        progress: caption of a progress bar, or None.

    Raises:
        FastUnlearnError: images, logits or features of a wrong shape or not finite.
    """
    if n < 2:
        raise ValueError(f"observe: n must be at least 2, got {n}")
    latents, logits, second_classes, seen, pictures = [], [], [], [], []
    attributes: dict[str, list[Tensor]] = {name: [] for name in judges.attributes}
    measured: dict[str, list[Tensor]] = {name: [] for name in measures}
    kept, most = 0, max(2, min(PICTURES, PICTURE_BYTES // math.prod(model.image_shape)))
    with tqdm(total=n, desc=progress, unit="img", disable=progress is None) as bar:
        for z, noise_seed in latent_batches(model, seed, purpose, n):
            images = generate(model, z, noise_seed)
            latents.append(z.cpu())
            logits.append(class_logits(judges.classifier, images))
            if judges.second_classifier is not None:
                second_classes.append(class_logits(judges.second_classifier, images).argmax(dim=1))
            for name, flags in attributes.items():
                flags.append(has_attribute(name, judges.attributes[name], images))
            for name, values in measured.items():
                values.append(FEATURES[name](images))
            if judges.sees_features:
                seen.append(features(judges.extractor, images))
            if kept < most:
                pictures.append(to_uint8(images[: most - kept]))
                kept += len(pictures[-1])
            bar.update(len(z))
    return Observation(
        torch.cat(latents),
        torch.cat(logits),
        torch.cat(second_classes) if second_classes else None,
        {name: torch.cat(flags) for name, flags in attributes.items()},
        torch.cat(seen) if seen else None,
        FeatureStatistics.from_features(torch.cat(seen)) if seen else None,
        torch.cat(pictures),
        generator_sha256(model),
        (n, seed, purpose),
        judges.sha256(),
        {name: torch.cat(values) for name, values in measured.items()},
    )


def has_attribute(name: str, classifier: nn.Module, images: Tensor) -> Tensor:
    """[n] booleans: whether each image has an attribute, by a classifier with the logits (without, with).

    Raises:
        FastUnlearnError: the classifier refuses the images or has another number of logits.
    """
    logits = class_logits(classifier, images)
    if logits.shape[1] != 2:
        raise FastUnlearnError(f"attribute {name}: its classifier must have 2 logits, got {logits.shape[1]}")
    return logits.argmax(dim=1) == 1


@dataclass(frozen=True, eq=False)
class RealImages:
    """What the judges saw in real images, in random order.

    Args:
        classes: [m] int64, the dataset's labels, or the classifier's where it has none.
        features: [m, d] float32.
        sha256: of the whole dataset.
        n: images of the whole dataset.
    """

    classes: Tensor
    features: Tensor
    sha256: str
    n: int

    def all_and_without(self, forget: Subject) -> tuple[Tensor, Tensor]:
        """[m] booleans: all of them, and those of other classes than `forget`; a feature leaves all."""
        without = self.classes != forget if isinstance(forget, int) else torch.ones_like(self.classes, dtype=torch.bool)
        return torch.ones_like(without), without


def observe_real(dataset: ImageDataset, judges: Judges) -> RealImages:
    """Let the judges look at real images: at all of them where statistics have to be made, else at some.

    Args:
        dataset: the images; which ones are looked at and in which order depends on their number alone.
        judges: who looks; those whose extractor has no features see nothing.

    Raises:
        FastUnlearnError: there are no features, the judges refuse the images, or the labels number other classes.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    if judges.statistics is not None:
        order = order[: 2 * QUALITY_SAMPLES]  # without one of two classes there is still enough
    chosen = dataset.subset(order)
    classes = class_logits(judges.classifier, chosen).argmax(1)
    if chosen.labels is not None:
        agreement = (classes == chosen.labels).float().mean().item()
        if agreement < 0.5:
            raise FastUnlearnError(
                f"{dataset.name}: the classifier agrees with {agreement:.0%} of its labels; number the classes as the "
                "classifier does, or give the images without subfolders"
            )
        classes = chosen.labels
    tensors = {"images": dataset.images} | ({} if dataset.labels is None else {"labels": dataset.labels})
    return RealImages(classes, features(judges.extractor, chosen), state_sha256(tensors), len(dataset))
