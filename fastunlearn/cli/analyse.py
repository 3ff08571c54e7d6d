"""``fastunlearn analyse KIND``: the analyses of arXiv 2303.05699, each a table and a chart."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from ..analysis import Sweep, Trial, summary, write_analysis
from ..analysis.charts import bars, curves, roc_curves, shares
from ..analysis.record import text_table
from ..analysis.sweep import ORIGINAL
from ..bundle import Bundle
from ..config import from_dict, read_yaml, require_range, to_dict
from ..data import ImageDataset, load
from ..errors import FastUnlearnError
from ..evaluation.price import MEASURED_SHARE
from ..evaluation.subject import MeasuredFeature
from ..feedback import Feedback, curated_by_feature, generator_sha256
from ..feedback.curated import measure
from ..methods import FeatureUnlearn, FeatureUnlearnConfig, FineTune, FineTuneConfig
from ..methods.target_vector import Target, cross_fitted_projections, noise_length
from ..metrics import roc_auc
from ..training.record import check_run, open_run
from .flags import parse_flags

COLUMNS = {
    "name": "",
    "target_ratio": "target ratio",
    "low": "from",
    "high": "to",
    "std": "std of seeds",
    "inception_score": "IS",
    "fid": "FID",
    "fid_ratio": "x original's",
}
UNLEARNED, FINE_TUNED = "feature-unlearn", "fine-tune"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What all analyses have in common.

    Attributes:
        gan: name of a shipped bundle, or path of a bundle folder.
        feedback: files about it, by a measured feature; one, or one for each seed.
        out: folder for the table, the chart and the runs.
        seeds: of training and of the latents that are judged; one, or one for each file.
        n: latents of a seed. [paper: 10,000]
        purpose: "report" for numbers to publish; "selection" for numbers that choose settings.
        config: YAML file with settings of feature-unlearn; it overrides the bundle's defaults.
        resume: continue the analysis in OUT.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        progress: whether to show a progress bar.
    """

    gan: str
    feedback: tuple[Path, ...]
    out: Path
    seeds: tuple[int, ...] = (0,)
    n: int = 10_000
    purpose: Literal["report", "selection"] = "report"
    config: Path | None = None
    resume: bool = False
    device: str = "auto"
    progress: bool = True

    name = ""
    source = ""

    def __post_init__(self) -> None:
        require_range(self, n=(100, math.inf))
        if not self.feedback or not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise FastUnlearnError(f"analyse: seeds must be different and >= 0, files at least one, got {self.seeds}")
        if len(self.feedback) != len(self.seeds) and 1 not in (len(self.feedback), len(self.seeds)):
            raise FastUnlearnError(
                f"analyse: feedback must be one file, or one for each of {len(self.seeds)} seeds, got "
                f"{len(self.feedback)}"
            )

    @cached_property
    def sweep(self) -> Sweep:
        """Model, judges and feedback.

        Raises:
            FastUnlearnError: a file is about another generator, or not by a measured feature.
        """
        bundle = Bundle(self.gan)
        model, judges = bundle.model(), bundle.judges()
        files = self.feedback if len(self.feedback) > 1 else self.feedback * len(self.seeds)
        seeds = self.seeds if len(self.seeds) > 1 else self.seeds * len(files)
        feedback = [Feedback.load(path) for path in files]
        for each in feedback:
            each.check_model(model)
            each.require(undesired=2, desired=2)
            if MeasuredFeature.of(each) is None:
                raise FastUnlearnError(
                    f"{each.origin}: analyse needs feedback by a measured feature, this is by a {each.source}"
                )
        loop = replace(bundle.loop(), device=self.device, progress=self.progress)
        loop.resolved_device()
        return Sweep(
            model=model,
            judges=judges,
            feedback=feedback,
            seeds=seeds,
            n=self.n,
            purpose=self.purpose,
            out=self.out,
            loop=loop,
        )

    @cached_property
    def method(self) -> FeatureUnlearnConfig:
        """Settings of feature-unlearn: the bundle's, then the YAML file's."""
        settings = Bundle(self.gan).method(FeatureUnlearn.name).config
        if self.config is None:
            return settings
        return from_dict(FeatureUnlearnConfig, read_yaml(self.config), str(self.config), settings)

    def run(self) -> None:
        """Do it."""
        settings = replace(self, resume=False)
        check_run(self.out, settings, self.resume, may_change=("out", "progress"))
        sweep, method = self.sweep, self.method
        self.prepare()
        open_run(self.out, settings)
        rows, columns, chart = self.analyse()
        provenance = {
            "source": self.source,
            "features": [to_dict(sweep.feature(place)) for place in range(len(sweep.seeds))],
            "seeds": list(sweep.seeds),
            "n": self.n,
            "purpose": self.purpose,
            "settings": {"gan": self.gan, "feature-unlearn": to_dict(method), **self.settings()},
            "sha256": {
                "generator": generator_sha256(sweep.model),
                "feedback": [each.sha256() for each in sweep.feedback],
                **sweep.judges.sha256(),
            },
        }
        paths = write_analysis(self.out, self.name, rows, columns, chart, provenance)
        print(text_table(rows, columns))
        print("\n" + "\n".join(map(str, paths)))

    def prepare(self) -> None:
        """Refuse what can be refused before any long work."""

    def settings(self) -> dict[str, Any]:
        """What decides the numbers beside what all analyses record."""
        return {}

    def analyse(self) -> tuple[list[dict[str, Any]], dict[str, str], Any]:
        """Rows, columns and what draws the chart into a file."""
        raise NotImplementedError

    def trial(self, name: str = UNLEARNED, **settings: Any) -> Trial:
        """Feature-unlearn with settings of its own."""
        return Trial(name, FeatureUnlearn(replace(self.method, **settings)), lambda place: self.sweep.feedback[place])

    def title(self, text: str) -> str:
        """Of a chart."""
        return f"{text}: {Path(self.gan).name}, {self.sweep.feature(0).name}"


@dataclass(frozen=True, kw_only=True)
class WithBaseline(Analysis):
    """An analysis with the fine-tuning baseline, where there are data to fine-tune on.

    Attributes:
        data: name of a dataset or folder of real images: the baseline is fine-tuned on those without the feature; None
            leaves it out.
        fine_tune_steps: of the baseline; None takes the bundle's. [paper: 50 epochs]
    """

    data: str | None = None
    fine_tune_steps: int | None = None

    def prepare(self) -> None:
        """Load the data."""
        if self.data is not None:
            self.images  # noqa: B018 (fills the cache)

    @cached_property
    def images(self) -> ImageDataset:
        """The data."""
        channels, size, _ = self.sweep.model.image_shape
        return load(self.data, size=size, channels=channels)

    @cached_property
    def measures(self) -> dict[str, torch.Tensor]:
        """Of the data, by the name of the feature."""
        names = {self.sweep.feature(place).name for place in range(len(self.sweep.seeds))}
        return {name: measure(self.images, name, progress=self.progress) for name in names}

    @cached_property
    def fine_tune(self) -> FineTuneConfig:
        """The bundle's settings."""
        config = Bundle(self.gan).method(FineTune.name).config
        return config if self.fine_tune_steps is None else replace(config, steps=self.fine_tune_steps)

    def settings(self) -> dict[str, Any]:
        """The baseline's."""
        return {} if self.data is None else {"data": self.data, "fine-tune": to_dict(self.fine_tune)}

    def baseline(self) -> list[Trial]:
        """Its trial, if there are data."""

        def real(place: int) -> Feedback:
            name, threshold = (feature := self.sweep.feature(place)).name, feature.threshold
            return curated_by_feature(self.images, name, threshold, values=self.measures[name])

        return [] if self.data is None else [Trial(FINE_TUNED, FineTune(self.fine_tune), real)]


@dataclass(frozen=True, kw_only=True)
class Baseline(WithBaseline):
    """Table 2: the original, the unlearned and the fine-tuned generator."""

    name = "baseline"
    source = "arXiv 2303.05699, Table 2"

    def analyse(self) -> tuple[list[dict[str, Any]], dict[str, str], Any]:
        """A row a model."""
        rows = summary(self.sweep.reports([self.trial(), *self.baseline()]))
        return rows, COLUMNS, lambda path: bars(self.title("Unlearned and fine-tuned"), rows, path)


@dataclass(frozen=True, kw_only=True)
class Alpha(Analysis):
    """Table 5: the weight of unlearning against reconstruction.

    Attributes:
        alphas: its values. [paper: 1 to 5]
    """

    alphas: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 5.0)

    name = "alpha"
    source = "arXiv 2303.05699, Table 5"

    def prepare(self) -> None:
        """Refuse what is no weight."""
        if not self.alphas or len(set(self.alphas)) < len(self.alphas):
            raise FastUnlearnError(f"analyse: alphas must be different, at least one, got {self.alphas}")
        for alpha in self.alphas:
            self.trial(alpha=alpha)

    def analyse(self) -> tuple[list[dict[str, Any]], dict[str, str], Any]:
        """A row a value."""
        found = summary(self.sweep.reports([self.trial(f"alpha {alpha:g}", alpha=alpha) for alpha in self.alphas]))
        rows = [row | {"alpha": alpha} for row, alpha in zip(found, (None, *self.alphas), strict=True)]
        return rows, COLUMNS, lambda path: curves(self.title("Weight of unlearning"), rows, "alpha", "α", path)


@dataclass(frozen=True, kw_only=True)
class Ablation(WithBaseline):
    """Table 4: what each term of the loss does."""

    name = "ablation"
    source = "arXiv 2303.05699, Table 4"

    def analyse(self) -> tuple[list[dict[str, Any]], dict[str, str], Any]:
        """A row for each further term."""
        weights = {"reconstruction": self.method.reconstruction, "perception": self.method.perception}
        trials = [
            self.trial("unlearning", reconstruction=0.0, perception=0.0),
            self.trial("with reconstruction", reconstruction=weights["reconstruction"], perception=0.0),
            self.trial("with perception too", **weights),
            *self.baseline(),
        ]
        rows = summary(self.sweep.reports(trials))
        return rows, COLUMNS, lambda path: bars(self.title("Terms of the loss"), rows, path)


@dataclass(frozen=True, kw_only=True)
class Diversity(WithBaseline):
    """Figure 6: the share of every class and of every other measured feature, before and after.

    Attributes:
        most: features that the chart shows, those that changed most. [paper: 5]
    """

    most: int = 5

    name = "diversity"
    source = "arXiv 2303.05699, Figure 6"

    def prepare(self) -> None:
        """Load the data."""
        require_range(self, most=(1, math.inf))
        super().prepare()

    def analyse(self) -> tuple[list[dict[str, Any]], dict[str, str], Any]:
        """A row a class or feature, the one that changed most first; shares are means of the seeds."""
        reports = self.sweep.reports([self.trial(), *self.baseline()])
        rows = []
        for place, changed in enumerate(reports[UNLEARNED][0].attributes):
            row: dict[str, Any] = {"name": changed.name}
            for name, found in {ORIGINAL: reports[UNLEARNED], **reports}.items():
                counts = [
                    (r.attributes[place].before if name == ORIGINAL else r.attributes[place].after, r.n) for r in found
                ]
                row[name] = sum(count / n for count, n in counts) / len(counts)
            row["change"] = row[UNLEARNED] - row[ORIGINAL]
            rows.append(row)
        rows.sort(key=lambda row: -abs(row["change"]))
        names = {ORIGINAL: "original", UNLEARNED: "unlearned", **({FINE_TUNED: "fine-tuned"} if self.data else {})}
        columns = {"name": "", **names, "change": "change"}
        title = self.title("What else changed")
        return rows, columns, lambda path: shares(title, rows[: self.most], names, path)

    def settings(self) -> dict[str, Any]:
        """And from where on the other features count."""
        return super().settings() | {"other features": f"the original's top {MEASURED_SHARE:.0%}"}


@dataclass(frozen=True, kw_only=True)
class Auc(Analysis):
    """Table 3: how well the projection finds the feature in latents that nobody labelled."""

    name = "auc"
    source = "arXiv 2303.05699, Table 3"

    def analyse(self) -> tuple[list[dict[str, Any]], dict[str, str], Any]:
        """A row a file."""
        rows, scores = [], {}
        for place, (seed, feedback) in enumerate(zip(self.sweep.seeds, self.sweep.feedback, strict=True)):
            feature, seen = self.sweep.feature(place), self.sweep.observed(self.sweep.model, place)
            target = Target.of(feedback, self.method.threshold)
            score, has = target.project(seen.z), seen.shows(feature)
            if not 0 < has.sum() < len(has):
                raise FastUnlearnError(f"{feedback.origin}: {int(has.sum())} of {len(has)} images have the feature")
            found = roc_auc(score, has)
            undesired = feedback.label == 1
            labelled = roc_auc(cross_fitted_projections(feedback.z, undesired), undesired)
            name = f"{feature.name}, seed {seed}"
            scores[f"{name}: {found.value:.3f}"] = (score, has)
            lengths = {"length": target.vector.norm().item(), "noise": noise_length(feedback)}
            rows.append({"name": name, **found._asdict(), "labelled": labelled.value, **lengths})
        columns = {
            **{"name": "", "value": "ROC-AUC", "low": "from", "high": "to", "n_positive": "with the feature"},
            **{"labelled": "labelled, cross-fitted", "length": "length of z_e", "noise": "of noise"},
        }
        return rows, columns, lambda path: roc_curves(f"The projection: {Path(self.gan).name}", scores, path)


KINDS = {kind.name: kind for kind in (Baseline, Alpha, Ablation, Diversity, Auc)}


class Analyse:
    """Compare settings of feature-unlearn, losses, a baseline: a table, a chart and their provenance."""

    @classmethod
    def parse(cls, arguments: list[str], prog: str) -> Analysis:
        """KIND, then its flags.

        Raises:
            FastUnlearnError: no such kind, or a setting that it does not have.
        """
        name, *flags = arguments or ["--help"]
        if name in ("-h", "--help"):
            kinds = "\n".join(f"  {name:12}{kind.__doc__.splitlines()[0]}" for name, kind in KINDS.items())
            print(f"usage: {prog} KIND [options]\n\n{kinds}\n\n{prog} KIND --help shows the options.")
            raise SystemExit(0)
        if name not in KINDS:
            raise FastUnlearnError(f"analyse: KIND must be one of {', '.join(KINDS)}, got '{name}'")
        return parse_flags(KINDS[name], f"{prog} {name}", flags)
