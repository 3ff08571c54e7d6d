"""Several methods on several seeds: each is trained once, all are judged alike."""

import hashlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import to_dict
from ..evaluation.judges import Judges
from ..evaluation.observation import Observation, observe
from ..evaluation.report import Report
from ..evaluation.subject import MeasuredFeature
from ..evaluation.suite import check, compare
from ..feedback import Feedback, generator_sha256
from ..feedback.latents import Purpose
from ..methods import Method, unlearn
from ..metrics import FEATURES, wilson_interval
from ..models.protocol import GenerativeModel
from ..training.loop import LoopConfig

ORIGINAL = "original"


@dataclass(frozen=True)
class Trial:
    """One row of a table.

    Args:
        name: of the row, and of its runs' folders.
        method: with its settings.
        feedback: place among the seeds → what the method learns from.
    """

    name: str
    method: Method
    feedback: Callable[[int], Feedback]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """What is the same in all rows of a table.

    Args:
        model: to unlearn from.
        judges: who look at its images.
        feedback: by a measured feature, one for each seed.
        seeds: of training and of the latents that are judged.
        n: latents of a seed.
        purpose: "report" for numbers to publish, "selection" for numbers that choose something.
        out: folder; what was trained and judged there before is not done again.
        loop: how to run.
    """

    model: GenerativeModel
    judges: Judges
    feedback: Sequence[Feedback]
    seeds: Sequence[int]
    n: int
    purpose: Purpose
    out: Path
    loop: LoopConfig
    _originals: dict[int, Observation] = field(default_factory=dict)

    def feature(self, place: int) -> MeasuredFeature:
        """What the feedback at a place is about."""
        return MeasuredFeature.of(self.feedback[place])

    def reports(self, trials: Sequence[Trial]) -> dict[str, list[Report]]:
        """Reports by the trial's name, one for each seed.

        Raises:
            FastUnlearnError: the judges do not fit the model, or what a method raises.
        """
        check(self.model, self.model, self.judges, self.feature(0))
        found: dict[str, list[Report]] = {trial.name: [] for trial in trials}
        total = len(self.seeds) * len(trials)
        with tqdm(total=total, unit="run", disable=not self.loop.progress) as bar:
            for place, seed in enumerate(self.seeds):
                for trial in trials:
                    bar.set_description(f"{trial.name}, seed {seed}")
                    found[trial.name].append(self.report(trial, place))
                    bar.update()
                self._originals.pop(place, None)  # its features are tens of megabytes
        return found

    def report(self, trial: Trial, place: int) -> Report:
        """Of one run, which is made if there is none."""
        folder = self.folder(trial, place)
        path = folder / "report.json"
        if not path.exists():
            loop = replace(self.loop, seed=self.seeds[place], progress=False, grid_every=0)
            after = unlearn(self.model, trial.method, trial.feedback(place), folder, loop)
            seen = self.observed(after, place)
            original = self.original(place)
            compare(original, seen, self.judges, self.feature(place), feedback=self.feedback[place]).save(path)
        return Report.load(path)

    def folder(self, trial: Trial, place: int) -> Path:
        """Of one run; another one as soon as anything is other that decides its report."""
        decides = {
            "method": to_dict(trial.method.config),
            "generator": generator_sha256(self.model),
            "feedback": self.feedback[place].sha256(),
            "feature": to_dict(self.feature(place)),
            "judges": self.judges.sha256(),
            "latents": [self.n, self.purpose],
            "loop": to_dict(replace(self.loop, seed=0, progress=False)),
        }
        digest = hashlib.blake2b(json.dumps(decides, sort_keys=True).encode(), digest_size=4).hexdigest()
        return self.out / "runs" / f"{trial.name.replace(' ', '-')}-seed-{self.seeds[place]}-{digest}"

    def original(self, place: int) -> Observation:
        """The model's own images, looked at once."""
        if place not in self._originals:
            self._originals[place] = self.observed(self.model, place)
        return self._originals[place]

    def observed(self, model: GenerativeModel, place: int) -> Observation:
        """What the judges see of a model."""
        return observe(
            model, self.judges, n=self.n, seed=self.seeds[place], purpose=self.purpose, measures=tuple(FEATURES)
        )


def summary(reports: Mapping[str, Sequence[Report]]) -> list[dict[str, Any]]:
    """A row for the original and one for each trial: target ratio, inception score and FID.

    The interval of a target ratio is Wilson's, of the images of all seeds together; `std` is that of the seeds.

    Args:
        reports: by the trial's name, at least one trial and one seed.
    """
    first = next(iter(reports.values()))
    rows = [_row(ORIGINAL, [_Numbers.before(report) for report in first])]
    rows += [_row(name, [_Numbers.after(report) for report in of_seeds]) for name, of_seeds in reports.items()]
    fid = rows[0]["fid"]
    return [row | {"fid_ratio": None if not fid or row["fid"] is None else row["fid"] / fid} for row in rows]


@dataclass(frozen=True)
class _Numbers:
    """Of one generator and one seed."""

    count: int
    n: int
    inception_score: float | None
    fid: float | None

    @classmethod
    def before(cls, report: Report) -> "_Numbers":
        return cls(
            report.classifier.n_before,
            report.n,
            _value(report.quality.before.inception_score),
            None if report.fid is None else report.fid.original_full,
        )

    @classmethod
    def after(cls, report: Report) -> "_Numbers":
        return cls(
            report.classifier.n_after,
            report.n,
            _value(report.quality.after.inception_score),
            None if report.fid is None else report.fid.unlearned_without,
        )


def _row(name: str, seeds: Sequence[_Numbers]) -> dict[str, Any]:
    ratios = [numbers.count / numbers.n for numbers in seeds]
    low, high = wilson_interval(sum(numbers.count for numbers in seeds), sum(numbers.n for numbers in seeds))
    row: dict[str, Any] = {"name": name, "target_ratio": statistics.mean(ratios), "low": low, "high": high}
    row["std"] = statistics.stdev(ratios) if len(ratios) > 1 else None
    for key in ("inception_score", "fid"):
        values = [getattr(numbers, key) for numbers in seeds]
        row[key] = None if None in values else statistics.mean(values)
        row[f"{key}_seeds"] = values
    return row | {"target_ratio_seeds": ratios}


def _value(estimate: Any) -> float | None:
    return None if estimate is None else estimate.value
