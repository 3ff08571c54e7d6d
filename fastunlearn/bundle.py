"""Bundles: a folder that holds a trained model and everything needed to unlearn from it and to judge the result.

| file | holds |
|---|---|
| ``config.yaml`` | architecture, provenance, path-length mean, classifier errors, unlearning defaults |
| ``generator.safetensors``, ``generator_ema…``, ``discriminator…`` | the networks |
| ``constants.safetensors`` | optional: mean style and fixed noise of the checkpoint that the model comes from |
| ``classifier.safetensors``, ``classifier_2…`` | optional: the scorer, and a second one on which nothing selects |
| ``statistics.npz`` | optional: classifier features of the data, whole and without each class |
| ``card.md`` | what people should know before they use it |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .config import from_dict, read_yaml, to_dict
from .errors import FastUnlearnError
from .evaluation.judges import Judges
from .files import atomic_write
from .methods import METHODS, Method
from .metrics import DigitStatistics
from .models.checkpoints import load_checkpoint
from .models.classifiers import load_classifier
from .models.registry import ARCHITECTURES, Model
from .models.stylegan2 import Generator
from .training.classifier import read_classifier_error
from .training.loop import LoopConfig

PRETRAINED = Path(__file__).parent / "pretrained"
CONSTANTS = "constants.safetensors"


def load(name: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model of a bundle: ``fastunlearn.load("mnist32")``, or the path of a bundle folder or of a checkpoint file.

    Raises:
        FastUnlearnError: no such bundle, or its files are not what they should be.
    """
    return Bundle(name).model().to(device)


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module from a safetensors file.

    Raises:
        FastUnlearnError: the file is missing, truncated, or of another architecture.
    """
    try:
        module.load_state_dict(read_tensors(path))
    except FastUnlearnError:
        raise
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise FastUnlearnError(f"{path}: weights of another architecture ({detail[:300]})") from error


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state dict as safetensors, complete or not at all."""
    write_tensors(module.state_dict(), path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What a safetensors file holds.

    Raises:
        FastUnlearnError: the file is missing or truncated.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise FastUnlearnError(f"{path}: not a readable safetensors file ({error})") from error


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, complete or not at all."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:
            raise FastUnlearnError(f"cannot write {path}: {error}") from error


@dataclass(frozen=True)
class Bundle:
    """A bundle by the name of a shipped one or by its folder; or a checkpoint file: a model and nothing else."""

    name: str | Path

    def __post_init__(self):
        if not self.is_checkpoint and not (self.folder / "config.yaml").is_file():
            shipped = ", ".join(sorted(p.parent.name for p in PRETRAINED.glob("*/config.yaml"))) or "none"
            raise FastUnlearnError(
                f"{self.name}: no such bundle; give a folder with a config.yaml, a checkpoint file or one of: {shipped}"
            )

    @property
    def folder(self) -> Path:
        """Where it lies; of a checkpoint, the file."""
        return PRETRAINED / self.name if self.is_shipped else Path(self.name)

    @property
    def is_shipped(self) -> bool:
        """Whether it came with the package."""
        return len(Path(self.name).parts) == 1 and (PRETRAINED / self.name).is_dir()

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a file of another project."""
        return not self.is_shipped and Path(self.name).is_file()

    @property
    def config(self) -> dict[str, Any]:
        """What config.yaml holds; nothing for a checkpoint."""
        if self.is_checkpoint:
            return {}
        return read_yaml(self.folder / "config.yaml")

    @property
    def classifier(self) -> Path:
        """Where its classifier lies, if it has one.

        Raises:
            FastUnlearnError: a checkpoint has none.
        """
        if self.is_checkpoint:
            raise FastUnlearnError(
                f"{self.name}: a checkpoint has no classifier; give --classifier, or to unlearn --feedback"
            )
        return self.folder / "classifier.safetensors"

    def model(self) -> Model:
        """The networks."""
        if self.is_checkpoint:
            return load_checkpoint(self.folder).model
        where, config = self.folder / "config.yaml", self.config
        arch = str(config.get("arch"))
        if arch not in ARCHITECTURES:
            raise FastUnlearnError(f"{where}: arch must be one of {', '.join(ARCHITECTURES)}, got '{arch}'")
        make, sizes = ARCHITECTURES[arch]
        model = make(from_dict(sizes, config.get("model", {}), f"{where}: model"))
        if config.get("without_discriminator"):
            model.discriminator = None
        for name, module in model.modules().items():
            load_weights(module, self.folder / f"{name}.safetensors")
        if (self.folder / CONSTANTS).exists():
            set_constants(model, read_tensors(self.folder / CONSTANTS), self.folder / CONSTANTS)
        model.path_length_mean = float(config.get("path_length_mean", 0.0))
        return model

    def method(self, name: str) -> Method:
        """A method with the settings that suit this bundle; where it says none, with its defaults.

        Args:
            name: on the command line, such as "adapt-then-unlearn".

        Raises:
            FastUnlearnError: no such method, or a setting that it does not have.
        """
        if name not in METHODS:
            raise FastUnlearnError(f"method must be one of {', '.join(METHODS)}, got '{name}'")
        make, config = METHODS[name]
        settings = self.config.get("unlearn", {}).get(name, {})
        return make(from_dict(config, settings, f"{self.name}: unlearn: {name}", config()))

    def loop(self) -> LoopConfig:
        """How to run an unlearning of this bundle."""
        settings = self.config.get("unlearn", {}).get("loop", {})
        return from_dict(LoopConfig, settings, f"{self.name}: unlearn: loop", LoopConfig())

    def judges(self) -> Judges:
        """The classifiers with what they tell of their own errors, and the data's statistics, as far as they are here.

        Raises:
            FastUnlearnError: the bundle has no classifier, or a file is damaged.
        """
        classifier = self.classifier
        second, statistics = (self.folder / name for name in ("classifier_2.safetensors", "statistics.npz"))
        return Judges(
            classifier=load_classifier(classifier),
            classifier_errors=read_classifier_error(classifier),
            second_classifier=load_classifier(second) if second.exists() else None,
            second_errors=read_classifier_error(second) if second.exists() else None,
            statistics=DigitStatistics.load(statistics) if statistics.exists() else None,
        )


def all_constants(model: Model) -> dict[str, Tensor]:
    """Mean style and fixed noise of both generators by name; empty where they have none."""
    return {
        f"{network}.{name}": tensor
        for network, module in model.modules().items()
        if isinstance(module, Generator)
        for name, tensor in module.constants().items()
    }


def set_constants(model: Model, constants: Mapping[str, Tensor], where: Path) -> None:
    """The inverse of `all_constants`.

    Raises:
        FastUnlearnError: they are another model's.
    """
    for network in ("generator", "generator_ema"):
        prefix = f"{network}."
        own = {name.removeprefix(prefix): t for name, t in constants.items() if name.startswith(prefix)}
        try:
            model.modules()[network].set_constants(own)
        except FastUnlearnError as error:
            raise FastUnlearnError(f"{where}: of another architecture ({network}: {error})") from error


def save_bundle(model: Model, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a model's networks and config.yaml; `facts` is stored beside the architecture.

    config.yaml comes last: a folder without it is no bundle.
    """
    for name, module in model.modules().items():
        save_weights(module, folder / f"{name}.safetensors")
    (folder / CONSTANTS).unlink(missing_ok=True)
    if constants := all_constants(model):
        write_tensors(constants, folder / CONSTANTS)
    config = {
        "arch": model.arch,
        "model": to_dict(model.config),
        **({} if "discriminator" in model.modules() else {"without_discriminator": True}),
        "path_length_mean": model.path_length_mean,
        **facts,
    }
    with atomic_write(folder / "config.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
