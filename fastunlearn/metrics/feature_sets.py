"""Features of one side of a comparison: of a folder's images, a generator's, or a file's statistics."""

import dataclasses
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..data import ImageDataset, from_uint8
from ..data.image_folder import image_files, read_image
from ..errors import FastUnlearnError
from ..feedback.latents import generate, latent_batches
from ..files import atomic_write
from ..models.protocol import GenerativeModel
from .arrays import load_npz
from .extractors import ModuleExtractor
from .provenance import Provenance, Score, require_same
from .statistics import FeatureStatistics

NOT_OF_FEATURES = ("n", "n_reference", "library")
"""What of a provenance two sides of one comparison need not have in common."""

_AT_ONCE = 500


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of many images, or what is left of them in a file.

    Args:
        source: where they come from, for messages.
        statistics: mean and covariance.
        features: [n, d] float32 on the CPU, or None where they were not kept.
        provenance: what they were made with; None for a file that does not say.
    """

    source: str
    statistics: FeatureStatistics
    features: Tensor | None
    provenance: Provenance | None

    @classmethod
    def of_folder(
        cls,
        extractor: ModuleExtractor,
        folder: str | Path,
        n: int | None = None,
        *,
        seed: int = 0,
        batch: int = 50,
        keep: bool = True,
        progress: bool = False,
    ) -> "FeatureSet":
        """Features of the images below a folder, read a batch at a time and each resized by the extractor's rule.

        Args:
            extractor: of the features.
            folder: of images of any sizes, unless the extractor has no resize rule.
            n: that many of them, drawn without replacement; None for all.
            seed: of the draw.
            batch: images at a time.
            keep: keep the features, not only their statistics.
            progress: whether to show a progress bar.

        Raises:
            FastUnlearnError: fewer than 2 or than n images, one that cannot be read, or the extractor refuses them.
        """
        files = image_files(folder)
        if n is not None and n > len(files):
            raise FastUnlearnError(f"{folder}: holds {len(files):,} images, {n:,} are asked for")
        if n is not None:
            files = [files[i] for i in sorted(np.random.RandomState(seed).permutation(len(files))[:n])]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            batches = (
                list(pool.map(lambda file: read_image(file, channels=extractor.channels), files[start : start + batch]))
                for start in range(0, len(files), batch)
            )
            parts = (_of_images(extractor, images) for images in batches)
            return cls._of(extractor, parts, str(folder), len(files), keep, progress)

    @classmethod
    def of_dataset(
        cls, extractor: ModuleExtractor, dataset: ImageDataset, *, keep: bool = True, progress: bool = False
    ) -> "FeatureSet":
        """Features of all images of a dataset; as `of_folder`."""
        starts = range(0, len(dataset), _AT_ONCE)
        parts = (extractor(dataset.batch(slice(start, start + _AT_ONCE))) for start in starts)
        return cls._of(extractor, parts, dataset.name, len(dataset), keep, progress)

    @classmethod
    def of_generator(
        cls,
        extractor: ModuleExtractor,
        model: GenerativeModel,
        n: int,
        *,
        source: str = "generator",
        seed: int = 0,
        keep: bool = True,
        progress: bool = False,
    ) -> "FeatureSet":
        """Features of n images of a generator, from the report's latents of `seed`; as `of_folder`.

        Raises:
            FastUnlearnError: fewer than 2 images, images that are not finite, or the extractor refuses them.
        """
        parts = (extractor(generate(model, *latents)) for latents in latent_batches(model, seed, "report", n))
        return cls._of(extractor, parts, source, n, keep, progress)

    @classmethod
    def of_file(cls, path: str | Path) -> "FeatureSet":
        """What `save` wrote, or an npz file with mu and sigma of pytorch-fid or clean-fid, which says nothing more.

        Raises:
            FastUnlearnError: missing, damaged, or without mu and sigma.
        """
        arrays = load_npz(path)
        statistics = FeatureStatistics.from_arrays(arrays, path)
        try:
            provenance = Provenance(**json.loads(str(arrays["provenance"]))) if "provenance" in arrays else None
        except (TypeError, ValueError) as error:
            raise FastUnlearnError(f"{path}: its provenance cannot be read; make the file again") from error
        kept = statistics.features
        return cls(str(path), statistics, None if kept is None else torch.from_numpy(kept).float(), provenance)

    @classmethod
    def _of(
        cls, extractor: ModuleExtractor, parts: Iterable[Tensor], source: str, n: int, keep: bool, progress: bool
    ) -> "FeatureSet":
        if n < 2:
            raise FastUnlearnError(f"{source}: statistics need at least 2 images, got {n}")
        statistics, kept = FeatureStatistics(), []
        with tqdm(total=n, desc=source, unit="img", disable=not progress) as bar:
            for part in parts:
                statistics.update(part)
                if keep:
                    kept.append(part)
                bar.update(len(part))
        return cls(source, statistics, torch.cat(kept) if keep else None, extractor.provenance(n))

    @property
    def n(self) -> int | None:
        """Number of images, or None where nobody knows."""
        return self.statistics.n

    @property
    def d(self) -> int:
        """Length of a feature vector."""
        return self.statistics.d

    def require_features(self, metric: str, at_least: int) -> Tensor:
        """The features themselves.

        Raises:
            FastUnlearnError: they were not kept, or are fewer than the metric needs.
        """
        if self.features is None:
            raise FastUnlearnError(f"{self.source}: holds statistics alone; {metric} needs the images")
        if len(self.features) < at_least:
            raise FastUnlearnError(f"{self.source}: {metric} needs at least {at_least:,} images, got {self.n:,}")
        return self.features

    def save(self, path: str | Path) -> None:
        """Write the statistics as an npz file that other FID tools read too, with the provenance beside them."""
        arrays = self.statistics.to_arrays()
        if self.provenance is not None:
            arrays["provenance"] = np.array(json.dumps(self.provenance.to_dict()))
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)


def joint_provenance(candidate: FeatureSet, reference: FeatureSet) -> Provenance:
    """That of a score of `candidate` against `reference`; a file that does not say is taken for the other's like.

    Raises:
        FastUnlearnError: they were made by different extractors or resize rules, or differ in length.
    """
    if candidate.d != reference.d:
        sides = (f"{side.source} has {side.d:,} features" for side in (candidate, reference))
        raise FastUnlearnError(f"cannot be compared: {', '.join(sides)}")
    known = [side.provenance for side in (candidate, reference) if side.provenance is not None]
    if len(known) == 2:
        sides = f"{candidate.source} and {reference.source}"
        require_same(sides, *known, ignore=NOT_OF_FEATURES)
    base = known[0] if known else Provenance("unknown", "", "unknown", None, f"fastunlearn {__version__}", False)
    return dataclasses.replace(base, n=candidate.n, n_reference=reference.n)


def frechet_score(candidate: FeatureSet, reference: FeatureSet) -> Score:
    """Fréchet distance between two sets, with its provenance.

    Raises:
        FastUnlearnError: they cannot be compared, or a file holds no covariance.
    """
    provenance = joint_provenance(candidate, reference)
    try:
        value = candidate.statistics.distance(reference.statistics)
    except ValueError as error:  # a file's covariance that is none
        raise FastUnlearnError(f"{candidate.source} and {reference.source}: {error}") from error
    return Score("fid", value, provenance)


def _of_images(extractor: ModuleExtractor, images: list[Tensor]) -> Tensor:
    """[n, d] of uint8 images of any sizes, those of one size together."""
    shapes = [tuple(image.shape) for image in images]
    features: list[Tensor | None] = [None] * len(images)
    for shape in dict.fromkeys(shapes):
        of_shape = [i for i, other in enumerate(shapes) if other == shape]
        for i, row in zip(of_shape, extractor(from_uint8(torch.stack([images[i] for i in of_shape]))), strict=True):
            features[i] = row
    return torch.stack(features)
