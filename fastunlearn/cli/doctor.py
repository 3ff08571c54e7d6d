"""``fastunlearn doctor``: what runs here, why, and what does not go together."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Print versions, the machine, which implementation each op uses and why, and known conflicts with their fixes.

    Attributes:
        json: print the same for programs.
    """

    json: bool = False

    def run(self) -> None:
        """Do it."""
        found = examine()
        print(json.dumps(found, indent=2) if self.json else text(found))


def examine() -> dict[str, Any]:
    """All that the command tells, as JSON could hold it."""
    from .. import diagnosis
    from ..kernels.registry import choices
    from ..training.record import environment

    facts = environment()
    return {
        "python": facts["python"],
        "machine": facts["machine"],
        "cuda": facts["cuda"],
        **diagnosis.machine(),
        "packages": facts["packages"],
        "variables": diagnosis.variables(),
        "ops": [choice._asdict() for choice in choices()],
        "conflicts": [conflict._asdict() for conflict in diagnosis.conflicts()],
    }


def text(found: dict[str, Any]) -> str:
    """For people."""
    lines = [f"{name:12}{value or 'none'}" for name, value in found.items() if not isinstance(value, dict | list)]
    lines += [f"{package:12}{version or 'not installed'}" for package, version in found["packages"].items()]
    lines += [f"{'':12}{name}={value}" for name, value in found["variables"].items()]
    rows = [("op", "device", "implementation", "why"), *(tuple(op.values()) for op in found["ops"])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines += ["", *("  ".join(t.ljust(w) for t, w in zip(row, [*widths, 0], strict=True)).rstrip() for row in rows)]
    lines += ["", f"conflicts{'' if found['conflicts'] else ': none known'}"]
    for conflict in found["conflicts"]:
        lines += [f"  {conflict['problem']}", f"    fix: {conflict['fix']}"]
    return "\n".join(lines)
