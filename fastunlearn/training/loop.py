"""The one training loop. A method yields phases; the loop runs them and owns everything a phase does not say."""

import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from .. import ops
from ..config import require_range
from ..errors import FastUnlearnError
from ..files import state_sha256
from .gradient_guard import GradientGuard
from .run_state import MetricsFile, RunState
from .scoring import Score, Scoring, ScoringConfig, write_record

Terms = Mapping[str, Tensor]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Lazy:
    """A regulariser computed every `every` steps, its weight multiplied by `every`; always in float32.

    Attributes:
        every: steps between two computations, ≥ 1.
        terms: real images [N, C, H, W] → named weighted terms.
    """

    every: int
    terms: Callable[[Tensor], Terms]


@dataclass(frozen=True)
class Player:
    """Parameters and what moves them.

    Attributes:
        parameters: what this player's Adam changes; every other player's parameters are frozen meanwhile.
        terms: real images [N, C, H, W] → named terms, whose sum is minimised; those without gradient are for the log.
        lr: Adam's learning rate.
        betas: Adam's β.
        lazy: regularisers with steps of their own.
        decay: share of the phase, in [0, 1] and at its end, over which the learning rate falls linearly to 0.
        guard: clips gradients and leaves out steps whose gradient is too long; among the phase's modules, as it counts.
    """

    parameters: list[nn.Parameter]
    terms: Callable[[Tensor], Terms]
    lr: float
    betas: tuple[float, float] = (0.0, 0.99)
    lazy: tuple[Lazy, ...] = ()
    decay: float = 0.0
    guard: GradientGuard | None = None

    def optimizer(self) -> torch.optim.Adam:
        """Adam with lr·c and β^c, c = Π n/(n+1) over the lazy intervals, so that laziness keeps Adam's time scale."""
        c = math.prod(r.every / (r.every + 1) for r in self.lazy)
        return torch.optim.Adam(self.parameters, lr=self.lr * c, betas=tuple(b**c for b in self.betas), fused=True)

    def anneal(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the learning rate for a step that begins after the share `progress` of the phase, in [0, 1)."""
        factor = min(1.0, (1 - progress) / self.decay) if self.decay else 1.0
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * factor


@dataclass(frozen=True)
class Average:
    """Exponential moving average: target ← decay·target + (1 − decay)·source after every step."""

    source: nn.Module
    target: nn.Module
    decay: float

    @torch.no_grad()
    def update(self) -> None:
        """One step."""
        ops.ema_update(self.target.parameters(), self.source.parameters(), self.decay)
        for to, buffer in zip(self.target.buffers(), self.source.buffers(), strict=True):
            to.copy_(buffer)


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: unique in its run; names its files and its random stream.
        steps: how long.
        modules: everything with a state: networks, averages, regularisers with running means.
        players: in the order in which they move in a step.
        data: number of images and a function from int64 indices to float32 images [N, C, H, W] in [−1, 1];
            latents [N, d] for a method that learns from them alone.
        batch_size: images per step.
        averages: moving averages.
        sample: draws a grid of images for people to look at, or None.
        settings: plain numbers and strings that decide the result beside all this, such as the weights of the losses.
        facts: plain numbers that the method found out on its way, for people to read: ``facts.json`` of the run.
        score: what its result is judged by while it is under way, or None.
        schedule: called before every step, and before its data are read, with the share of the phase that lies behind,
            in [0, 1): sets what changes on the way, in modules. None if nothing does.
    """

    name: str
    steps: int
    modules: dict[str, nn.Module]
    players: dict[str, Player]
    data: "Images"
    batch_size: int
    averages: tuple[Average, ...] = ()
    sample: Callable[[], Tensor] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    score: Score | None = None
    schedule: Callable[[float], None] | None = None

    def identity(self, seed: int, scoring: Mapping[str, Any]) -> dict[str, str]:
        """What must be the same for stored results of this phase to be its own; to be asked before it is trained.

        Args:
            seed: of the run.
            scoring: settings of the scores that decide what is kept; empty if none do.
        """
        start = {f"{name}.{key}": t for name, m in self.modules.items() for key, t in m.state_dict().items()}
        return {
            "seed": str(seed),
            "number of images": str(self.data.n),
            "batch size": str(self.batch_size),
            "start": state_sha256(start),
            "settings": json.dumps(self.settings, sort_keys=True),
            **({"scoring that decides": json.dumps(scoring, sort_keys=True)} if scoring else {}),
        }


@dataclass(frozen=True)
class Images:
    """n images behind an index."""

    n: int
    batch: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, images: Tensor) -> "Images":
        """Images [n, C, H, W] that are at hand."""
        return cls(len(images), images.__getitem__)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a run is carried out; none of it changes what is minimised.

    Attributes:
        seed: of everything random. A run is reproduced bit for bit by its seed on the same machine and threads.
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        precision: "float32"; "bf16" for bfloat16 autocast; "auto" for bf16 where the hardware multiplies it natively,
            else float32. Lazy regularisers are always computed in float32.
        checkpoint_every: steps between checkpoints.
        log_every: steps between lines in metrics.jsonl and TensorBoard.
        grid_every: steps between sample grids; 0 for none.
        progress: whether to show a progress bar.
        scoring: when phases are scored, and what follows from it.
    """

    seed: int = 0
    device: str = "auto"
    precision: Literal["float32", "bf16", "auto"] = "float32"
    checkpoint_every: int = 500
    log_every: int = 20
    grid_every: int = 500
    progress: bool = True
    scoring: ScoringConfig = field(default_factory=ScoringConfig)

    def __post_init__(self) -> None:
        positive = (1, math.inf)
        require_range(
            self, seed=(0, 2**63 - 1), checkpoint_every=positive, log_every=positive, grid_every=(0, math.inf)
        )

    def resolved_device(self) -> torch.device:
        """The device that `device` stands for.

        Raises:
            FastUnlearnError: there is no such device here.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch without CUDA asserts
            raise FastUnlearnError(
                f"device must be auto, cpu, cuda or cuda:N with that card present, got {self.device}"
            ) from error
        return device

    def resolved_precision(self) -> Literal["float32", "bf16"]:
        """The precision that `precision` stands for on the device."""
        if self.precision != "auto":
            return self.precision
        cuda = self.resolved_device().type == "cuda"
        native = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else _cpu_multiplies_bf16()
        return "bf16" if native else "float32"


def _cpu_multiplies_bf16() -> bool:
    """AVX512-BF16 or AMX; no on a torch too old to tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_tile"))


def run(phases: Generator[Phase, None, Result], folder: Path, config: LoopConfig) -> Result:
    """Drive a method's phases to the end and return what the method returns.

    A phase that already stands finished in `folder` is not run: its modules get their stored weights, and a phase
    with a checkpoint continues from it. So the same call resumes a run that was killed anywhere, bit for bit:
    randomness depends on (seed, phase, step) alone, and all other state is in the checkpoint.

    Args:
        phases: yields `Phase`s; when it is resumed, the modules of the phase it yielded have been trained.
        folder: the run's folder.
        config: how to run.

    Raises:
        FastUnlearnError: a loss or a score is not finite; a checkpoint cannot be read or written; `folder` holds a
            phase of the same name that started from other weights, with other settings or another seed; scores that
            are to decide cannot.
    """
    state = RunState(folder)
    try:
        while True:
            phase = next(phases)
            scoring = Scoring(phase.name, phase.score, config.scoring, phase.steps, phase.batch_size)
            identity = phase.identity(config.seed, scoring.identity)
            if phase.facts:
                state.record_facts(phase.name, phase.facts)
            if (result := state.finished(phase.name)) is not None:
                state.require_same(phase.name, identity, result)
                if result["step"] != phase.steps:
                    raise FastUnlearnError(
                        f"{folder}: {phase.name} ended after {result['step']} steps; for {phase.steps} start a new run"
                    )
                _restore(phase.modules, result["modules"])
            else:
                state.record_seconds(phase.name, _run_phase(phase, state, config, identity, scoring))
                result = {"step": phase.steps, "identity": identity, "modules": _snapshot(phase.modules)}
                state.finish(phase.name, result)
    except StopIteration as stop:
        return stop.value


def _snapshot(parts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: part.state_dict() for name, part in parts.items()}


def _restore(parts: Mapping[str, Any], states: Mapping[str, Any]) -> None:
    for name, part in parts.items():
        part.load_state_dict(states[name])


def _run_phase(
    phase: Phase, state: RunState, config: LoopConfig, identity: Mapping[str, str], scoring: Scoring
) -> float:
    """Train a phase to its end; the seconds that its steps took, those before its checkpoint included."""
    begin = time.perf_counter()
    device = config.resolved_device()
    for module in phase.modules.values():
        module.to(device)
    optimizers = {name: player.optimizer() for name, player in phase.players.items()}
    precision = config.resolved_precision()
    log = Log(state.folder, phase, config)
    start = 0
    if (saved := state.checkpoint(phase.name)) is not None:
        state.require_same(phase.name, identity, saved)
        start = saved["step"]
        if start > phase.steps:
            raise FastUnlearnError(f"{state.folder}: {phase.name} is past step {phase.steps}, at {start}")
        _restore(phase.modules, saved["modules"])
        _restore(optimizers, saved["optimizers"])
        scoring.load_state_dict(saved.get("scoring", {}))
        log.latest = saved["values"]
        begin -= saved.get("seconds", 0.0)  # checkpoints of older versions have none
    log.rewind(start)
    order = DataOrder(phase.data.n, phase.batch_size, stream_seed(config.seed, phase.name, "data"))
    with log, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        log.scores(start, scoring.start())
        for step in range(start, phase.steps):
            torch.manual_seed(stream_seed(config.seed, phase.name, step))
            if phase.schedule is not None:
                phase.schedule(step / phase.steps)
            real = phase.data.batch(order.indices(step)).to(device)
            log.step(step + 1, advance(phase, optimizers, real, step, precision))
            if step + 1 in scoring.due:
                log.check_finite()
                log.scores(step + 1, scoring.take(step + 1, phase.modules))
                if scoring.stops:
                    break
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < phase.steps:
                log.check_finite()
                snapshot = {
                    "modules": _snapshot(phase.modules),
                    "optimizers": _snapshot(optimizers),
                    "values": dict(log.latest),
                    "seconds": time.perf_counter() - begin,
                    "scoring": scoring.state_dict(),
                }
                state.save_checkpoint(phase.name, {"step": step + 1, "identity": identity, **snapshot})
    if scoring.modules:
        _restore(phase.modules, scoring.modules)
    if scoring.history:
        write_record(state.folder, phase.name, scoring.record())
    return time.perf_counter() - begin


def advance(
    phase: Phase, optimizers: Mapping[str, torch.optim.Optimizer], real: Tensor, step: int, precision: str = "float32"
) -> dict[str, Tensor]:
    """One step of a phase: every player moves, then the averages; returns the detached terms by "player/term"."""
    values = {}
    for name, player in phase.players.items():
        player.anneal(optimizers[name], step / phase.steps)
        values |= _move(name, player, phase, optimizers[name], real, step, precision)
    for average in phase.averages:
        average.update()
    return values


def _move(
    name: str, player: Player, phase: Phase, optimizer: torch.optim.Optimizer, real: Tensor, step: int, precision: str
) -> dict[str, Tensor]:
    """One step of one player: its loss, then those of its regularisers that are due; returns the detached terms."""
    for other in phase.players.values():
        for parameter in other.parameters:
            parameter.requires_grad_(other is player)
    bf16 = precision == "bf16"
    values = {}
    with torch.autocast(real.device.type, torch.bfloat16) if bf16 else nullcontext():
        terms = player.terms(real)
    values |= _descend(name, player, terms, optimizer, weight=1)
    for lazy in player.lazy:
        if step % lazy.every == 0:
            values |= _descend(name, player, lazy.terms(real), optimizer, weight=lazy.every)
    return values


def _descend(
    name: str, player: Player, terms: Terms, optimizer: torch.optim.Optimizer, weight: int
) -> dict[str, Tensor]:
    optimizer.zero_grad(set_to_none=True)
    (sum(terms.values()) * weight).backward()
    if player.guard is None or player.guard.accepts(player.parameters):
        optimizer.step()
    values = dict(terms) if player.guard is None else {**terms, **player.guard.values()}
    return {f"{name}/{term}": value.detach() for term, value in values.items()}


def stream_seed(seed: int, *names: object) -> int:
    """Seed of an independent random stream, from the run's seed and the stream's names."""
    digest = hashlib.blake2b(":".join(map(str, (seed, *names))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class DataOrder:
    """Batches of indices, without replacement within an epoch; a pure function of (seed, step).

    An epoch is ⌊n / batch_size⌋ batches of one permutation; with fewer than batch_size images a batch repeats them.
    """

    def __init__(self, n: int, batch_size: int, seed: int):
        self.n, self.batch_size, self.seed = n, batch_size, seed
        self._epoch, self._permutation = -1, torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """int64 [batch_size]."""
        epoch, position = divmod(step, max(1, self.n // self.batch_size))
        if epoch != self._epoch:
            rng = torch.Generator().manual_seed(stream_seed(self.seed, epoch))
            repeats = math.ceil(self.batch_size / self.n)
            self._permutation = torch.cat([torch.randperm(self.n, generator=rng) for _ in range(repeats)])
            self._epoch = epoch
        return self._permutation[position * self.batch_size : (position + 1) * self.batch_size]


class Log:
    """Progress bar, metrics.jsonl, TensorBoard events and sample grids of one phase, and the watch on its losses."""

    def __init__(self, folder: Path, phase: Phase, config: LoopConfig):
        self.folder, self.phase, self.config = folder, phase, config
        self.metrics = MetricsFile(folder / "metrics.jsonl")
        self._start = 0
        self.latest: dict[str, Tensor] = {}  # a lazy term keeps its value until it is due again
        self._scores: dict[str, float] = {}

    def rewind(self, step: int) -> None:
        """Continue after `step`."""
        self._start = step
        self.metrics.rewind(self.phase.name, step or -1)  # before the first step there is a score to be had

    def __enter__(self) -> "Log":
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(self.folder / "tensorboard" / self.phase.name, purge_step=self._start or None)
        self._bar = tqdm(
            total=self.phase.steps,
            initial=self._start,
            desc=self.phase.name,
            unit="step",
            disable=not self.config.progress,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 15,  # a log file need not hold every redraw
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._events.close()

    def step(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Take the values of a step; write and check them when it is time."""
        self.latest = {**self.latest, **values}
        self._bar.update()
        if step % self.config.log_every == 0 or step == self.phase.steps:
            self.check_finite()
            row = {name: float(value) for name, value in self.latest.items()}
            self.metrics.append(self.phase.name, step, row)
            self._show(step, row)
        every = self.config.grid_every
        if self.phase.sample is not None and every and (step % every == 0 or step == self.phase.steps):
            from ..evaluation.pictures import save_grid

            images = self.phase.sample()
            save_grid(images, self.folder / "samples" / f"{self.phase.name}-{step:06d}.png", columns=8)
            self._events.add_images("samples", (images.clamp(-1, 1) + 1) / 2, step)

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Write the scores taken after a step, if there are any, as a line of their own."""
        if scores:
            self._scores = {f"score/{name}": value for name, value in scores.items()}
            self.metrics.append(self.phase.name, step, self._scores)
            self._show(step, self._scores)

    def _show(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            self._events.add_scalar(name, value, step)
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in {**row, **self._scores}.items()}, refresh=False)

    def check_finite(self) -> None:
        """Raise on the first value that is not finite; one synchronisation with the device for all of them."""
        if not self.latest:
            return
        names, values = zip(*self.latest.items(), strict=True)
        for name, value in zip(names, torch.stack([v.float() for v in values]).tolist(), strict=True):
            if not math.isfinite(value):
                raise FastUnlearnError(
                    f"{self.phase.name}: loss {name} is {value}; lower the learning rate or the weight of that term, "
                    "then start again, or --resume from the last checkpoint, which is finite"
                )
