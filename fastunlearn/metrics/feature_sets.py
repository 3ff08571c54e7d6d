"""Features of one side of a comparison: of a folder's images, a generator's, or a file's statistics."""

import dataclasses
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..data import from_uint8
from ..data.image_folder import image_files, read_image
from ..errors import FastUnlearnError
from ..feedback.latents import generate, latent_batches
from ..files import atomic_write
from ..models.protocol import GenerativeModel
from .extractors import ModuleExtractor
from .frechet import FeatureStatistics
from .provenance import Provenance, Score, require_same

NOT_OF_FEATURES = ("n", "n_reference", "library")
"""What of a provenance two sides of one comparison need not have in common."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of many images, or what is left of them in a file.

    Args:
        source: where they come from, for messages.
        statistics: mean and covariance.
        features: [n, d] float32 on the CPU, or None in a file that holds statistics alone.
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
        progress: bool = False,
    ) -> "FeatureSet":
        """Features of the images below a folder, read a batch at a time and each resized by the extractor's rule.

        Args:
            extractor: of the features.
            folder: of images of any sizes, unless the extractor has no resize rule.
            n: that many of them, drawn without replacement; None for all.
            seed: of the draw.
            batch: images at a time.
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
            return cls._of(extractor, (_of_images(extractor, b) for b in batches), str(folder), len(files), progress)

    @classmethod
    def of_generator(
        cls,
        extractor: ModuleExtractor,
        model: GenerativeModel,
        n: int,
        *,
        source: str = "generator",
        seed: int = 0,
        progress: bool = False,
    ) -> "FeatureSet":
        """Features of n images of a generator, from the report's latents of `seed`.

        Raises:
            FastUnlearnError: fewer than 2 images, images that are not finite, or the extractor refuses them.
        """
        batches = (extractor(generate(model, *latents)) for latents in latent_batches(model, seed, "report", n))
        return cls._of(extractor, batches, source, n, progress)

    @classmethod
    def of_file(cls, path: str | Path) -> "FeatureSet":
        """What `save` wrote, or an npz file with mu and sigma of pytorch-fid or clean-fid, which says nothing more.

        Raises:
            FastUnlearnError: missing, damaged, or without mu and sigma.
        """
        statistics = FeatureStatistics.load(path)
        with np.load(path, allow_pickle=False) as arrays:
            text = str(arrays["provenance"]) if "provenance" in arrays else None
        try:
            provenance = None if text is None else Provenance(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise FastUnlearnError(f"{path}: its provenance cannot be read; make the file again") from error
        return cls(str(path), statistics, None, provenance)

    @classmethod
    def _of(
        cls, extractor: ModuleExtractor, batches: Iterator[Tensor], source: str, n: int, progress: bool
    ) -> "FeatureSet":
        if n < 2:
            raise FastUnlearnError(f"{source}: statistics need at least 2 images, got {n}")
        parts = []
        with tqdm(total=n, desc=source, unit="img", disable=not progress) as bar:
            for part in batches:
                parts.append(part)
                bar.update(len(part))
        features = torch.cat(parts)
        return cls(source, FeatureStatistics.from_features(features), features, extractor.provenance(n))

    @property
    def n(self) -> int | None:
        """Number of images, or None where nobody knows."""
        return self.statistics.n

    @property
    def d(self) -> int:
        """Length of a feature vector."""
        return len(self.statistics.mean)

    def require_features(self, metric: str, at_least: int) -> Tensor:
        """The features themselves.

        Raises:
            FastUnlearnError: a file has none, or there are fewer than the metric needs.
        """
        if self.features is None:
            raise FastUnlearnError(f"{self.source}: holds statistics alone; {metric} needs the images")
        if len(self.features) < at_least:
            raise FastUnlearnError(f"{self.source}: {metric} needs at least {at_least:,} images, got {self.n:,}")
        return self.features

    def save(self, path: str | Path) -> None:
        """Write the statistics as an npz file that other FID tools read too, with the provenance beside them."""
        with atomic_write(path) as temporary:
            self.statistics.save(temporary)
            with np.load(temporary, allow_pickle=False) as file:
                arrays = dict(file)
            if self.provenance is not None:
                arrays["provenance"] = np.array(json.dumps(self.provenance.to_dict()))
            with open(temporary, "wb") as file:
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
        FastUnlearnError: they cannot be compared.
    """
    provenance = joint_provenance(candidate, reference)
    return Score("fid", candidate.statistics.distance(reference.statistics), provenance)


def _of_images(extractor: ModuleExtractor, images: list[Tensor]) -> Tensor:
    """[n, d] of uint8 images of any sizes, those of one size together."""
    shapes = [tuple(image.shape) for image in images]
    features: list[Tensor | None] = [None] * len(images)
    for shape in dict.fromkeys(shapes):
        of_shape = [i for i, other in enumerate(shapes) if other == shape]
        for i, row in zip(of_shape, extractor(from_uint8(torch.stack([images[i] for i in of_shape]))), strict=True):
            features[i] = row
    return torch.stack(features)
