"""Classifiers from files, and the one place where their answers are checked before anybody counts them."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import ImageDataset
from ..errors import FastUnlearnError
from .lenet import LeNet


def load_classifier(path: str | Path) -> nn.Module:
    """Read a classifier: a TorchScript file, a LeNet of this project (`.safetensors`), or a bundle folder's.

    Args:
        path: the file, or a folder that holds `classifier.safetensors`.

    Returns:
        The module in `eval()`, without gradients: images [N, C, H, W] in [−1, 1] → logits [N, classes].

    Raises:
        FastUnlearnError: missing, truncated, or neither of the two formats.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "classifier.safetensors"
    if not path.is_file():
        raise FastUnlearnError(f"{path}: no such classifier file")
    if path.suffix == ".safetensors":
        return LeNet.load(path)
    try:
        with warnings.catch_warnings():
            # torch 2.13 calls TorchScript deprecated; it stays the format in which people have classifiers.
            warnings.filterwarnings("ignore", message=".*torch.jit.load", category=DeprecationWarning)
            module = torch.jit.load(path, map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise FastUnlearnError(f"{path}: not a TorchScript file, or truncated; save one with torch.jit.save") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module.eval()


def class_logits(classifier: nn.Module, images: Tensor | ImageDataset) -> Tensor:
    """The classifier's logits, in batches, in evaluation mode, without gradients, and checked.

    Args:
        classifier: images → logits [N, K].
        images: [N, C, H, W], float32 in [−1, 1], or a dataset of them, N ≥ 1.

    Returns:
        [N, K], float32, on the CPU.

    Raises:
        FastUnlearnError: the classifier refuses the images, or gives another shape or NaN or infinity.
    """
    return in_batches(classifier, classifier, images, "classifier")


def require_class(forget: int, n_classes: int) -> None:
    """Refuse a class that a classifier does not know.

    Raises:
        FastUnlearnError: `forget` is outside [0, n_classes).
    """
    if not 0 <= forget < n_classes:
        raise FastUnlearnError(
            f"classifier: knows the classes 0 to {n_classes - 1}, so {forget} cannot be forgotten with it"
        )


def features(extractor: nn.Module, images: Tensor | ImageDataset) -> Tensor:
    """`extractor.features(images)`, [N, d] float32 on the CPU, checked as `class_logits` checks logits.

    Raises:
        FastUnlearnError: the extractor has no features, refuses the images, or its features are not finite.
    """
    if not callable(getattr(extractor, "features", None)):
        raise FastUnlearnError(
            f"feature extractor: {type(extractor).__name__} has no method `features`; "
            "use a bundle's classifier as extractor or leave the statistics out"
        )
    return in_batches(extractor, extractor.features, images, "feature extractor")


def embeddings(embedder: nn.Module, images: Tensor) -> Tensor:
    """`embedder(images)`, [N, d] float32 on the CPU, checked as `class_logits` checks logits."""
    return in_batches(embedder, embedder, images, "embedder")


@torch.no_grad()
def in_batches(
    module: nn.Module, function: Callable[[Tensor], Tensor], images: Tensor | ImageDataset, name: str, batch: int = 500
) -> Tensor:
    """`function` of the images, on the device of `module` and with it in evaluation mode, and checked.

    Args:
        module: what `function` calls.
        function: images [b, C, H, W] → [b, k].
        images: [N, C, H, W], float32 in [−1, 1], or a dataset of them, N ≥ 1.
        name: what errors call it.
        batch: images at a time.

    Returns:
        [N, k], float32, on the CPU.

    Raises:
        FastUnlearnError: the function refuses the images, or gives another shape or NaN or infinity.
    """
    if not len(images):
        raise ValueError(f"{name}: images must not be empty, got 0 of them")
    device = next((tensor.device for tensor in module.state_dict().values()), torch.device("cpu"))
    read = images.batch if isinstance(images, ImageDataset) else images.__getitem__
    with evaluating(module):
        return torch.cat(
            [
                _checked(function, read(slice(start, start + batch)).to(device), name)
                for start in range(0, len(images), batch)
            ]
        )


def _checked(function: Callable[[Tensor], Tensor], images: Tensor, name: str) -> Tensor:
    try:
        output = function(images)
    except (RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]  # TorchScript puts the reason last
        raise FastUnlearnError(
            f"{name}: fails on images of shape {tuple(images.shape[1:])}; use one made for them ({lines[-1]})"
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(images):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise FastUnlearnError(f"{name}: must give [{len(images)}, k] for {len(images)} images, got {got}")
    if not output.isfinite().all():
        raise FastUnlearnError(f"{name}: gives numbers that are not finite; its weights may be damaged")
    return output.to("cpu", torch.float32)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout and batch norm in evaluation mode for the block, then every submodule's mode as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
