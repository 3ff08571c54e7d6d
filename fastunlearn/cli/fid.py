"""``fastunlearn fid A B``: how far two sets of images are apart; nothing has to be unlearned for it."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from ..bundle import Bundle
from ..config import require_range
from ..errors import FastUnlearnError
from ..files import atomic_write
from ..metrics import DIGIT_FID_SAMPLES
from ..metrics.extractors import ModuleExtractor, load_extractor
from ..metrics.feature_sets import NOT_OF_FEATURES, FeatureSet, frechet_score
from ..metrics.provenance import Score, require_same
from ..metrics.quality import inception_score, kernel_inception_distance, neighbourhood_scores
from ..training.loop import LoopConfig

FEW = 10_000
"""Below this many images the bias of a Fréchet distance is not small beside the differences that people report."""


@dataclass(frozen=True, kw_only=True)
class Fid:
    """Fréchet distance of two folders of images, statistics files or generators, with what it was measured with.

    Attributes:
        candidate: the scored side, such as generated images: a folder of images, an npz file of statistics (ours,
            pytorch-fid's or clean-fid's), or a bundle or checkpoint, whose generator is sampled.
        reference: what it is compared with, such as real images; the same kinds.
        extractor: inception, for published values (downloads its weights once); efficientnet-lite0, which needs no
            network; digits; or a TorchScript file of a network that gives [N, d] features, or a LeNet's file.
        size: height and width to which images come for a TorchScript file (bicubic, antialiased); without it they stay
            as they are.
        n: images of a side, drawn from a folder by --seed; None takes all of a folder, 15,000 of a generator.
        seed: of such draws, of latents and of the subsets of --kid.
        batch: images read and resized at a time.
        kid: also the kernel inception distance.
        kid_subset_size: images of each of its 100 subsets.
        prdc: also precision and recall (k = 3), density and coverage (k = 5).
        inception_score: also that of the candidate, if the extractor has classes.
        json: write all values with their provenance to this file.
        save_statistics: write the reference's statistics to this npz file, which can then stand in its place.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        progress: whether to show progress bars.
    """

    candidate: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    reference: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    extractor: str = "inception"
    size: int | None = None
    n: int | None = None
    seed: int = 0
    batch: int = 50
    kid: bool = False
    kid_subset_size: int = 1000
    prdc: bool = False
    inception_score: bool = False
    json: Path | None = None
    save_statistics: Path | None = None
    device: str = "auto"
    progress: bool = True

    def __post_init__(self) -> None:
        require_range(self, seed=(0, 2**32 - 1), batch=(1, math.inf), kid_subset_size=(2, math.inf))
        if self.n is not None:
            require_range(self, n=(2, math.inf))

    def run(self) -> None:
        """Do it."""
        sources = [_source(name) for name in (self.candidate, self.reference)]
        extractor = None
        if self.inception_score or not all(isinstance(source, FeatureSet) for source in sources):
            extractor = load_extractor(self.extractor, self.size).to(self.resolved_device)
        self.check(sources, extractor)
        candidate, reference = (self.features(source, extractor) for source in sources)
        if self.save_statistics is not None:
            reference.save(self.save_statistics)
        scores = list(self.scores(candidate, reference, extractor))
        warnings = list(_warnings(candidate, reference))
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        width = max(len(score.name) for score in scores)
        for score in scores:
            print(f"{score.name:{width}}  {score.value:.6g}")
        print(scores[0].provenance)
        if self.json is not None:
            with atomic_write(self.json) as temporary:
                temporary.write_text(
                    json.dumps(self.report(candidate, reference, scores, warnings), indent=2, allow_nan=False) + "\n"
                )

    @property
    def resolved_device(self) -> torch.device:
        """The device that `device` stands for."""
        return LoopConfig(device=self.device).resolved_device()

    def check(self, sources: list["Source"], extractor: ModuleExtractor | None) -> None:
        """Refuse, before any long work, files that cannot serve.

        Raises:
            FastUnlearnError: of other features than the extractor's, or without features that a score needs.
        """
        for source in sources:
            if not isinstance(source, FeatureSet):
                continue
            if source.provenance is not None and extractor is not None:
                own = extractor.provenance(source.n)
                require_same(f"{source.source} and --extractor", source.provenance, own, NOT_OF_FEATURES)
            for flag in ("kid", "prdc"):
                if getattr(self, flag):
                    source.require_features(f"--{flag}", 1)
        if self.inception_score:
            extractor.require_head()

    def features(self, source: "Source", extractor: ModuleExtractor | None) -> FeatureSet:
        """Those of a side."""
        keep = self.kid or self.prdc or self.inception_score
        shared = {"seed": self.seed, "keep": keep, "progress": self.progress}
        if isinstance(source, FeatureSet):
            return source
        if isinstance(source, Path):
            return FeatureSet.of_folder(extractor, source, self.n, batch=self.batch, **shared)
        model, n = source.model().to(self.resolved_device), DIGIT_FID_SAMPLES if self.n is None else self.n
        return FeatureSet.of_generator(extractor, model, n, source=str(source.name), **shared)

    def scores(
        self, candidate: FeatureSet, reference: FeatureSet, extractor: ModuleExtractor | None
    ) -> Iterator[Score]:
        """What was asked for, the Fréchet distance first."""
        fid = frechet_score(candidate, reference)
        yield fid
        if self.kid:
            m = self.kid_subset_size
            fake, real = (side.require_features("--kid", m) for side in (candidate, reference))
            kid = kernel_inception_distance(real, fake, subset_size=m, seed=self.seed)
            name = "kid" if m == 1000 else f"kid of {m:,}"
            yield Score(name, kid.mean, fid.provenance)
            yield Score(f"{name}, standard deviation", kid.std, fid.provenance)
        if self.prdc:
            fake, real = (side.require_features("--prdc", 6) for side in (candidate, reference))
            # Those in print are mostly of VGG16's features.
            provenance = dataclasses.replace(fid.provenance, standard=False)
            for found in neighbourhood_scores(real, fake, k=3, k_density=5):
                for name, value in found._asdict().items():
                    yield Score(name, value, provenance)
        if self.inception_score:
            logits = extractor.logits(candidate.require_features("--inception-score", 10))
            score = inception_score(logits, splits=10, seed=self.seed)
            provenance = dataclasses.replace(fid.provenance, n_reference=None)
            yield Score("inception score", score.mean, provenance)
            yield Score("inception score, standard deviation", score.std, provenance)

    def report(
        self, candidate: FeatureSet, reference: FeatureSet, scores: list[Score], warnings: list[str]
    ) -> dict[str, Any]:
        """What --json holds."""
        return {
            "candidate": {"source": candidate.source, "n": candidate.n},
            "reference": {"source": reference.source, "n": reference.n},
            "seed": self.seed,
            "scores": {
                score.name: {"value": score.value, "provenance": score.provenance.to_dict()} for score in scores
            },
            "warnings": warnings,
        }


Source = FeatureSet | Path | Bundle
"""A file's statistics, a folder of images, or what has a generator."""


def _source(name: str) -> Source:
    """What a name on the command line stands for."""
    path = Path(name)
    if path.suffix == ".npz":
        return FeatureSet.of_file(path)
    if path.is_dir() and not (path / "config.yaml").exists():
        return path
    try:
        return Bundle(name)
    except FastUnlearnError as error:
        raise FastUnlearnError(f"{name}: no folder of images, npz file, bundle or checkpoint") from error


def _warnings(candidate: FeatureSet, reference: FeatureSet) -> Iterator[str]:
    sides = (candidate, reference)
    for side in sides:
        if side.provenance is None:
            yield f"{side.source} does not say what made its features; they are taken for the other side's like"
    few = [side for side in sides if side.n is not None and side.n < max(FEW, candidate.d + 1)]
    if few:
        counts = " and ".join(f"{side.source} has {side.n:,}" for side in few)
        rank = f", not more than the {candidate.d:,} features" if any(side.n <= side.d for side in few) else ""
        yield f"FID is biased for few images ({counts}{rank}): compare this value with those of the same counts only"
