"""What ``impl`` chooses."""

from collections.abc import Callable, Mapping


def choose(op: str, impl: str, ours: Callable, implementations: Mapping[str, Callable]) -> Callable:
    """Ours, or for "ref" its reference.

    Raises:
        ValueError: another impl.
    """
    if impl not in ("cuda", "ref"):
        raise ValueError(f"{op}: impl must be 'cuda' or 'ref', got {impl!r}")
    return ours if impl == "cuda" else implementations["reference"]
