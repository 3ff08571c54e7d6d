"""Scores of a phase under way: at which steps they are taken, which step is kept, when to stop, what it cost.

What is measured is a `Score`'s, which the phase brings. When it is measured depends on settings and counts alone, never
on a clock, so that a run that keeps its best step is reproduced and resumed as any other.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from ..config import require_range
from ..errors import FastUnlearnError
from ..files import atomic_write
from ..models.protocol import GenerativeModel

Numbers = Mapping[str, float]

GENERATIONS_PER_IMAGE = 4
"""What a training step costs for every image of its batch, in generations of one image, at the least: one for D's loss,
one for G's, and G's gradient twice a generation. That D costs nothing makes "auto" careful."""

RECORD = "scores.json"


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Scoring while a run is under way, on latents that nothing else uses.

    Attributes:
        score_every: steps between two scorings, the last step always among them; 0 for none; "auto" spreads evenly as
            many as `score_share` pays for, by the number of images that training and scoring generate.
        score_share: share of a phase's time that "auto" spends, in [0, 1].
        n_score: images of one scoring, ≥ 2; FIDs compare with those of equally many images only.
        keep: the weights a phase ends with: the last step's, or the best scored step's. The best has the lowest FID of
            those with at most `keep_undesired` of the original's undesired images; if none has, the fewest of these.
        keep_undesired: share of the original's undesired images that the best step may still show, in [0, 1].
        patience: stop a phase after so many scorings in a row without a better one; 0 for never.
    """

    score_every: int | Literal["auto"] = "auto"
    score_share: float = 0.05
    n_score: int = 1000
    keep: Literal["last", "best"] = "last"
    keep_undesired: float = 0.05
    patience: int = 0

    def __post_init__(self) -> None:
        not_negative = (0, math.inf)
        if self.score_every != "auto":
            require_range(self, score_every=not_negative)
        require_range(self, score_share=(0, 1), n_score=(2, math.inf), keep_undesired=(0, 1), patience=not_negative)
        if self.decides and self.score_every == 0:
            raise FastUnlearnError("keep=best and patience need scores, got score_every = 0")

    @property
    def decides(self) -> bool:
        """Whether the scores have a part in the result, or are for people alone."""
        return self.keep == "best" or self.patience > 0


@dataclass(frozen=True)
class Score:
    """What a phase is judged by. Measuring leaves modules, random streams and gradients as they were.

    Attributes:
        measure: () → named numbers of the phase's result as it is now.
        n: images that one measurement generates, which is what it costs.
        before: () → the same numbers of what the result is to be compared with; None if there is no such thing.
        rank: numbers now and before → (place in `reasons`, further numbers); the lowest is the best. None for scores
            that are for people alone.
        reasons: why a step is the best one, in words.
        settings: plain numbers and strings that decide the numbers.
    """

    measure: Callable[[], Numbers]
    n: int
    before: Callable[[], Numbers] | None = None
    rank: Callable[[Numbers, Numbers], tuple[float, ...]] | None = None
    reasons: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


class ModelScorer(Protocol):
    """Whoever can judge a generator under way; `evaluation.scorer.Scorer` does."""

    def score(self, after: Callable[[], GenerativeModel], before: GenerativeModel | None = None) -> Score:
        """The score of the model that `after` gives at any time, compared with `before`."""
        ...


def scored_steps(config: ScoringConfig, steps: int, batch_size: int, n: int, extra: int = 0) -> frozenset[int]:
    """After which steps of a phase a score of n images is taken, `extra` more of them being taken beside.

    "auto": P = ⌊score_share · steps · batch_size · GENERATIONS_PER_IMAGE / n⌋ − extra of them, at ⌈i · steps / P⌉.
    """
    if config.score_every == 0 or steps == 0:
        return frozenset()
    if config.score_every != "auto":
        return frozenset((*range(config.score_every, steps, config.score_every), steps))
    paid = int(config.score_share * steps * batch_size * GENERATIONS_PER_IMAGE / n) - extra
    count = min(paid, steps)
    return frozenset(-(-i * steps // count) for i in range(1, count + 1))


class Scoring:
    """The scores of one phase so far, and the weights of the best of its steps.

    A phase without a score has none due, and they decide nothing.

    Args:
        phase: its name, for the messages.
        score: what it is judged by, or None.
        config: when, and what follows from it.
        steps: of the phase.
        batch_size: of the phase.

    Raises:
        FastUnlearnError: the scores are to decide and cannot.
    """

    def __init__(self, phase: str, score: Score | None, config: ScoringConfig, steps: int, batch_size: int):
        self.phase, self.score, self.config, self.steps = phase, score, config, steps
        self.due: frozenset[int] = frozenset()
        self.decides = config.decides and score is not None
        if score is not None:
            self.due = scored_steps(config, steps, batch_size, score.n, extra=int(score.before is not None))
        if self.decides and score.rank is None:
            raise FastUnlearnError(f"{phase}: keep=best and patience need scores with a rank")
        if self.decides and not self.due and steps:
            raise FastUnlearnError(
                f"{phase}: keep=best and patience need scores, and {steps} steps have none with "
                f"score_every={config.score_every}; give --score-every, or a smaller --n-score"
            )
        self.before: dict[str, float] = {}
        self.history: list[dict[str, Any]] = []  # {"step": …, "scores": {name: value}}
        self.best: dict[str, Any] | None = None  # one of them
        self.modules: dict[str, Any] = {}  # its weights, with keep=best
        self.seconds = {"scoring": 0.0, "phase": 0.0}
        self._clock = time.perf_counter()

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a stored result to be this one's; nothing where the scores decide nothing."""
        return {**asdict(self.config), **self.score.settings} if self.decides else {}

    def start(self) -> dict[str, float]:
        """Measure what the phase's result will be compared with; nothing if there is no such thing, or it is known."""
        self._clock = time.perf_counter()
        if not self.due or self.score.before is None or self.before:
            return {}
        self.before = self._measured(self.score.before, "before it")
        return self.before

    def take(self, step: int, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Measure after `step`; keep copies of the modules' states if it is the best one so far.

        Raises:
            FastUnlearnError: a score is not finite.
        """
        scores = self._measured(self.score.measure, f"at step {step}")
        self.history.append({"step": step, "scores": scores})
        if self.score.rank is not None and (self.best is None or self._rank(scores) < self._rank(self.best["scores"])):
            self.best = self.history[-1]
            if self.config.keep == "best":
                self.modules = {name: copied(module.state_dict()) for name, module in modules.items()}
        return scores

    @property
    def stops(self) -> bool:
        """Whether patience has run out."""
        if not self.config.patience or self.best is None:
            return False
        since = [taken for taken in self.history if taken["step"] > self.best["step"]]
        return len(since) >= self.config.patience

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        self._count()
        return {name: getattr(self, name) for name in ("before", "history", "best", "modules", "seconds")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue."""
        for name, value in state.items():
            setattr(self, name, value)

    def record(self) -> dict[str, Any]:
        """Of a phase that has ended, for people: which step was kept, why, from which scores, how long they took."""
        self._count()
        ended = self.history[-1]["step"]
        kept, why = ended, "the last step" if ended == self.steps else f"patience of {self.config.patience} ran out"
        if self.config.keep == "best" and self.best is not None:
            kept, why = self.best["step"], self.score.reasons[int(self._rank(self.best["scores"])[0])]
        return {
            "steps": self.steps,
            "ended": ended,
            "kept": kept,
            "why": why,
            "n": self.score.n,
            "before": self.before,
            "scored": [{"step": taken["step"], **taken["scores"]} for taken in self.history],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }

    def _rank(self, scores: Numbers) -> tuple[float, ...]:
        return self.score.rank(scores, self.before)

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds["phase"] += now - self._clock
        self._clock = now

    def _measured(self, measure: Callable[[], Numbers], when: str) -> dict[str, float]:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # what training has queued is none of scoring's time
        begun = time.perf_counter()
        scores = measure()
        self.seconds["scoring"] += time.perf_counter() - begun
        for name, value in scores.items():
            if not math.isfinite(value):
                raise FastUnlearnError(
                    f"{self.phase}: score {name} is {value} {when}; lower the learning rate, or check the judge"
                )
        return {name: float(value) for name, value in scores.items()}


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's state on the CPU, independent of the module."""
    return {key: v.detach().to("cpu", copy=True) if isinstance(v, torch.Tensor) else v for key, v in state.items()}


def write_record(folder: Path, phase: str, record: Mapping[str, Any]) -> None:
    """Add a phase's record to the run's ``scores.json``."""
    records = {**read_records(folder), phase: record}
    with atomic_write(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(records, indent=2, allow_nan=False) + "\n")


def read_records(folder: Path) -> dict[str, Any]:
    """The records of a run's scored phases by name; none if none was scored.

    Raises:
        FastUnlearnError: the file is damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise FastUnlearnError(f"{path}: damaged ({error}); delete it") from error


def kept_steps(records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a bundle says of the phases it comes from: which step was kept of each, why, and its scores."""
    return {
        phase: {
            **{name: record[name] for name in ("steps", "ended", "kept", "why", "n", "before")},
            "scores": next(taken for taken in record["scored"] if taken["step"] == record["kept"]),
        }
        for phase, record in records.items()
    }
