"""What a run keeps on disk so that it is never lost: checkpoints inside a phase, results of finished phases."""

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import FastUnlearnError
from ..files import atomic_write

TIMING, FACTS = "timing.json", "facts.json"


def save_state(state: dict[str, Any], path: Path) -> None:
    """Write nested dicts of tensors and numbers; the file is complete or absent."""
    with atomic_write(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's zip writer reports a full disk as a RuntimeError
            raise FastUnlearnError(
                f"cannot write {path}: {str(error).splitlines()[0]}; free some disk space and --resume"
            ) from error


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote; runs no code from the file.

    Raises:
        FastUnlearnError: the file is truncated or is not such a state.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, OSError, ValueError) as error:
        raise FastUnlearnError(
            f"checkpoint {path} cannot be read ({type(error).__name__}: truncated or not a checkpoint); "
            "delete it to restart this phase"
        ) from error


def read_seconds(folder: Path) -> float | None:
    """Wall time of all phases of the run in a folder; None where it was not recorded."""
    path = Path(folder) / TIMING
    try:
        return sum(map(float, json.loads(path.read_text()).values())) if path.exists() else None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FastUnlearnError(f"{path}: not a run's timing file; delete it") from error


class RunState:
    """The folder of one run: ``checkpoint.pt`` of the phase under way and ``phases/<name>.pt`` of finished ones.

    ``timing.json`` has the seconds that each finished phase took; what a kill undid and a resumed run did again counts
    once, so it is the time of a run without interruption.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @property
    def checkpoint_path(self) -> Path:
        """The phase under way."""
        return self.folder / "checkpoint.pt"

    def result_path(self, phase: str) -> Path:
        """The end of a finished phase: its networks, number of steps and identity."""
        return self.folder / "phases" / f"{phase}.pt"

    def finished(self, phase: str) -> dict[str, Any] | None:
        """State of a finished phase, or None."""
        path = self.result_path(phase)
        return load_state(path) if path.exists() else None

    def checkpoint(self, phase: str) -> dict[str, Any] | None:
        """State inside this phase, or None if there is none."""
        if not self.checkpoint_path.exists():
            return None
        state = load_state(self.checkpoint_path)
        return state if state.get("phase") == phase else None

    def save_checkpoint(self, phase: str, state: dict[str, Any]) -> None:
        """Replace the checkpoint."""
        save_state({"phase": phase, **state}, self.checkpoint_path)

    def require_same(self, phase: str, identity: Mapping[str, str], stored: Mapping[str, Any]) -> None:
        """Refuse stored states of another run.

        Raises:
            FastUnlearnError: names the first thing that differs.
        """
        known = stored.get("identity", {})
        for name in {**identity, **known}:
            if known.get(name) != identity.get(name):
                raise FastUnlearnError(
                    f"{self.folder}: holds {phase} of a run with another {name}; give another folder or delete it"
                )

    def finish(self, phase: str, state: dict[str, Any]) -> None:
        """Store the result of a phase, then drop its checkpoint."""
        save_state(state, self.result_path(phase))
        self.checkpoint_path.unlink(missing_ok=True)

    def record_seconds(self, phase: str, seconds: float) -> None:
        """Note how long a finished phase took."""
        self._note(TIMING, phase, round(seconds, 3))

    def record_facts(self, phase: str, facts: Mapping[str, Any]) -> None:
        """Note what a method found out."""
        self._note(FACTS, phase, facts)

    def _note(self, name: str, phase: str, value: Any) -> None:
        path = self.folder / name
        noted = json.loads(path.read_text()) if path.exists() else {}
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({**noted, phase: value}, indent=2) + "\n")


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, with the phase, the step in it and the named values."""

    def __init__(self, path: Path):
        self.path = path

    def rewind(self, phase: str, step: int) -> None:
        """Drop the lines of this phase after `step`, which a killed run wrote and a resumed one writes again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the line the kill cut short
                continue
            if row["phase"] != phase or row["step"] <= step:
                kept.append(line)
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))

    def append(self, phase: str, step: int, values: dict[str, float]) -> None:
        """Add a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")
