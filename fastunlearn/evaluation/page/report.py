"""report.html of one run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..pictures import Pairs
from .charts import class_chart, loss_groups
from .document import write_document
from .gallery import gallery
from .summary import changes, complete, extremes, notices, remaining, sentence
from .text import label

MOST_TEXT = 20_000
"""Characters of a run's file that the page quotes."""

QUALITY = {
    "inception_score": ("Inception Score", "more is better"),
    "kid": ("KID", "less is better"),
    "precision": ("Precision", "realistic images"),
    "recall": ("Recall", "kinds of real images that it makes"),
    "density": ("Density", "realistic images, robust"),
    "coverage": ("Coverage", "kinds of real images that it makes, robust"),
    "ms_ssim": ("MS-SSIM of pairs", "less is more diverse"),
}


def write_report(folder: str | Path, report: Mapping[str, Any], pairs: Pairs | None = None) -> Path:
    """Write a run's report.html; what was not measured is listed there, and its section left out.

    Args:
        folder: of the run; its metrics.jsonl, config.yaml and environment.yaml are read where they are.
        report: what report.json holds, of any version.
        pairs: images before and after, or None for a page without images.

    Returns:
        The page's path.

    Raises:
        FastUnlearnError: the file could not be written.
    """
    folder = Path(folder)
    report = complete(report)
    files = {name: _quoted(folder / name) for name in ("config.yaml", "environment.yaml")}
    environment = _mapping(files["environment.yaml"])
    rows = changes(report)
    others = remaining(rows)
    loss, gain = extremes(rows)
    provenance = report["provenance"] or {}
    framed = 1 if report["feature"] else report["forget"]  # of `HasFeature`'s classes
    write_document(
        folder / "report.html",
        "report.html",
        report=report,
        run=folder.resolve().name,
        method=_method(folder),
        started=str(environment.get("started", ""))[:10],
        sentence=sentence(report),
        notices=notices(report),
        loss=loss,
        gain=gain,
        lost=sum(row["change"] < 0 for row in others),
        gained=sum(row["change"] > 0 for row in others),
        others=len(others),
        outside=[row["title"] for row in rows if row["outside"] and not row["forgotten"]],
        gallery=None if pairs is None else gallery(pairs, framed),
        framed=framed,
        names=(lambda k: ("without", "with")[k] + f" {report['subject']}") if report["feature"] else "class {}".format,
        classes=class_chart(rows, report["n"]),
        quality=list(_quality(report["quality"])),
        losses=loss_groups(folder / "metrics.jsonl"),
        kernels=_by_implementation(provenance.get("kernels") or environment.get("kernels") or {}),
        seconds=provenance.get("seconds") or {},
        memory=provenance.get("peak_memory_mb"),
        hardware=_hardware(provenance.get("hardware") or {}, environment),
        extractor=provenance.get("extractor"),
        hashes=dict(_leaves({**report["sha256"], **(provenance.get("hashes") or {})})),
        versions={**report["versions"], **(provenance.get("versions") or {})},
        files={name: text for name, text in files.items() if text},
    )
    return folder / "report.html"


def _quality(quality: Mapping[str, Any] | None) -> Iterator[tuple[str, str, Any, Any]]:
    """Name, how to read it, before, after; what was measured on neither side is left out."""
    for key, (name, reading) in QUALITY.items():
        before, after = ((quality or {}).get(when, {}).get(key) for when in ("before", "after"))
        if before or after:
            yield name, reading, before, after


def _by_implementation(kernels: Mapping[str, str]) -> dict[str, list[str]]:
    """{"native": ["bias_act on cpu", …], …}."""
    found: dict[str, list[str]] = {}
    for op, implementation in sorted(kernels.items()):
        found.setdefault(str(implementation), []).append(op)
    return found


def _hardware(hardware: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    if hardware:
        units = {"memory_gb": "memory, GB", "gpu": "GPU", "cpu": "CPU"}
        return {units.get(key, label(key)): "none" if value is None else value for key, value in hardware.items()}
    return {key: environment[key] for key in ("machine", "cuda") if environment.get(key)}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{label(key)}: ")
        elif value is not None:
            yield f"{prefix}{label(key)}", value


def _quoted(path: Path) -> str:
    """A text file's beginning; "" where there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}\n… ({len(text):,} characters in {path.name})"


def _mapping(text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    return values if isinstance(values, dict) else {}


def _method(folder: Path) -> str:
    """The method that the run's bundle names."""
    unlearned = _mapping(_quoted(folder / "bundle" / "config.yaml")).get("unlearned")
    method = unlearned.get("method") if isinstance(unlearned, dict) else None
    return ", ".join(map(str, method)) if isinstance(method, dict) else str(method or "")
