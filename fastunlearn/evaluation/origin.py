"""Where a report's numbers come from: weights, data, settings, software, machine, time and memory."""

import os
import platform
import sys
from pathlib import Path

import torch

from .. import (
    __version__,
    ops,  # noqa: F401 (declares all of them)
)
from ..diagnosis import available_cores
from ..files import file_sha256
from ..kernels.registry import choices
from ..metrics.extractors import lenet_extractor, module_extractor
from ..models.lenet import LeNet
from ..models.protocol import GenerativeModel
from ..training.record import version
from .judges import Judges
from .observation import Observation, RealImages
from .report import Hardware, Origin, Seconds


def origin(
    model: GenerativeModel,
    judges: Judges,
    before: Observation,
    after: Observation,
    *,
    retrained: Observation | None,
    real: RealImages | None,
    run: Path | None,
    seconds: Seconds,
) -> Origin:
    """Everything on which a report depends.

    Args:
        model: the generator; its device is that of the kernels.
        judges: who looked.
        before: what they saw of the original.
        after: what they saw of the unlearned generator.
        retrained: what they saw of the retrained one, or None.
        real: what they saw of the data, or None.
        run: folder of the unlearning run, or None.
        seconds: that unlearning and evaluation took.
    """
    device = next(model.generator.parameters()).device.type
    in_run = {name: None if run is None else run / name for name in ("feedback.safetensors", "config.yaml")}
    feedback, config = (None if path is None or not path.is_file() else file_sha256(path) for path in in_run.values())
    return Origin(
        extractor=_extractor(judges, before, real),
        hashes={
            "original": before.generator,
            "unlearned": after.generator,
            "judges": before.judges,
            "retrained": None if retrained is None else retrained.generator,
            "data": None if real is None else real.sha256,
            "feedback": feedback,
            "config": config,
        },
        versions=versions() | {"numpy": str(version("numpy"))},
        hardware=Hardware(
            cpu=_cpu(),
            cores=available_cores(),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            memory_gb=round(_memory_bytes() / 1e9, 1),
        ),
        kernels={c.op: c.implementation for c in choices() if c.device == device},
        seconds=seconds,
        peak_memory_mb=round(_peak_bytes() / 1e6, 1),
    )


def versions() -> dict[str, str]:
    """Of what computes the numbers."""
    return {"fastunlearn": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def _extractor(judges: Judges, seen: Observation, real: RealImages | None) -> dict | None:
    if seen.features is None:
        return None
    n_reference = None if real is None else real.n
    if judges.statistics is not None:
        n_reference = judges.statistics.full.n
    module = judges.extractor
    made = lenet_extractor(module) if isinstance(module, LeNet) else module_extractor(module)
    return made.provenance(seen.n, n_reference).to_dict()


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _memory_bytes() -> int:
    """Of the machine; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _peak_bytes() -> int:
    """Largest resident memory of this process so far; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
