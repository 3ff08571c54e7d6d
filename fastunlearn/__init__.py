"""fastunlearn: make trained image generators forget, and show that they did."""

import importlib
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  first: the extension links against its libraries

if TYPE_CHECKING:
    from .bundle import Bundle, load
    from .feedback import Feedback, label_with_classifier
    from .methods import AdaptThenUnlearn, AdaptThenUnlearnConfig, unlearn

__version__ = "0.1.0"

__all__ = [
    "AdaptThenUnlearn",
    "AdaptThenUnlearnConfig",
    "Bundle",
    "Feedback",
    "label_with_classifier",
    "load",
    "unlearn",
]

_MODULES = {
    "bundle": ("Bundle", "load"),
    "feedback": ("Feedback", "label_with_classifier"),
    "methods": ("AdaptThenUnlearn", "AdaptThenUnlearnConfig", "unlearn"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: whoever wants `fastunlearn.ops` alone needs nothing but torch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f".{module}", __name__), name)
    if name in (*_MODULES, "ops", "metrics", "evaluation"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
