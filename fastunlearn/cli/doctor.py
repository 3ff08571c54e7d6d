"""``fastunlearn doctor``: what runs here, and why."""

from dataclasses import dataclass

from ..training.record import environment


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Print versions, the machine and which implementation each op uses on each device, with the reason."""

    def run(self) -> None:
        """Do it."""
        from ..kernels.registry import choices

        facts = environment()
        for name in ("python", "machine", "cuda"):
            print(f"{name:12}{facts[name] or 'none'}")
        for package, version in facts["packages"].items():
            print(f"{package:12}{version or 'not installed'}")
        rows = [("op", "device", "implementation", "why"), *map(tuple, choices())]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        print()
        for row in rows:
            print("  ".join(text.ljust(width) for text, width in zip(row, [*widths, 0], strict=True)).rstrip())
