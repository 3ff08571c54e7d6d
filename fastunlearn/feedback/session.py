"""Feedback: which of a generator's images are undesired, stored so that every method can replay it."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..data import from_uint8
from ..errors import FastUnlearnError
from ..files import atomic_write, require_no_pipe, state_sha256
from ..models.protocol import GenerativeModel
from .latents import generate

FORMAT = "fastunlearn-feedback"
VERSION = "1"
CHECKSUM = "content_sha256"
SOURCES = ("classifier", "person", "curated", "morphology")


@dataclass(frozen=True)
class Simulator:
    """What took the place of a person.

    Attributes:
        name: the measured feature (`metrics.FEATURES`), or the classifier's class.
        threshold: measures from here on are undesired; None for a classifier, which decides by its largest logit.
    """

    name: str
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class Feedback:
    """Labelled samples: latents of one generator, or, for curated data, images that no generator made.

    Args:
        z: [n, d] float32; d is 0 for curated images.
        noise_seed: [n] int64, the per-sample seeds that belong to z; 0 for curated images.
        label: [n] int8, 1 undesired, 0 desired.
        image: [n, C, H, W] uint8, or None to make the images from z when they are needed.
        generator_sha256: hash of the weights that z belongs to (`generator_sha256`); "" for curated images.
        source: "classifier", "person", "curated" or "morphology".
        simulator: who labelled, where no person did; None where that is not known.
        page: where the page that people label on stands, JSON, so that it goes on there; no method reads it.
        origin: what error messages call it; the path when it comes from a file. Not stored.

    Raises:
        FastUnlearnError: a part has the wrong shape, type or length, or values that cannot be.
    """

    z: Tensor
    noise_seed: Tensor
    label: Tensor
    image: Tensor | None
    generator_sha256: str
    source: str
    simulator: Simulator | None = field(default=None, kw_only=True)
    page: str | None = field(default=None, kw_only=True, repr=False)
    origin: str = field(default="feedback", repr=False)

    def __post_init__(self) -> None:
        self._demand("z", self.z, torch.float32, "[n, d]", self.z.ndim == 2)
        n = len(self.z)
        self._demand("noise_seed", self.noise_seed, torch.int64, f"[{n}]", self.noise_seed.shape == (n,))
        self._demand("label", self.label, torch.int8, f"[{n}]", self.label.shape == (n,))
        if self.image is not None:
            fits = self.image.ndim == 4 and len(self.image) == n
            self._demand("image", self.image, torch.uint8, f"[{n}, C, H, W]", fits)
        if not self.z.isfinite().all():
            broken = (~self.z.isfinite().all(dim=1)).sum().item()
            raise FastUnlearnError(f"{self.origin}: z is not finite in {broken} of {n} samples; label them anew")
        wrong = self.label[(self.label != 0) & (self.label != 1)]
        if len(wrong):
            raise FastUnlearnError(f"{self.origin}: label must be 1 (undesired) or 0 (desired), got {wrong[0].item()}")
        if self.source not in SOURCES:
            raise FastUnlearnError(
                f"{self.origin}: source must be one of {', '.join(SOURCES)}, got {self.source!r:.60}"
            )
        if self.source == "curated":
            if self.has_latents or self.image is None:
                raise FastUnlearnError(f"{self.origin}: curated feedback must hold images and empty z")
        elif not self.has_latents or len(self.generator_sha256) != 64:
            raise FastUnlearnError(
                f"{self.origin}: feedback by {self.source} must hold latents and the generator's SHA-256"
            )

    def _demand(self, name: str, tensor: Tensor, dtype: torch.dtype, shape: str, fits: bool) -> None:
        if tensor.dtype != dtype or not fits:
            want, got = (str(d).removeprefix("torch.") for d in (dtype, tensor.dtype))
            raise FastUnlearnError(f"{self.origin}: {name} must be {want} {shape}, got {got} {list(tensor.shape)}")

    def __len__(self) -> int:
        return len(self.label)

    def sha256(self) -> str:
        """Hash of the labels and of what they are about."""
        parts = {"z": self.z, "noise_seed": self.noise_seed, "label": self.label}
        return state_sha256(parts if self.image is None else {**parts, "image": self.image})

    @property
    def has_latents(self) -> bool:
        """False for curated images, which have no z to regenerate them from."""
        return self.z.shape[1] > 0

    @property
    def n_undesired(self) -> int:
        """Number of samples labelled 1."""
        return int((self.label == 1).sum())

    @property
    def n_desired(self) -> int:
        """Number of samples labelled 0."""
        return int((self.label == 0).sum())

    def images(self, model: GenerativeModel | None, undesired: bool) -> Tensor:
        """The undesired or the desired images, stored ones if there are any, else made from their latents.

        Args:
            model: the generator that the feedback is about; None if images are stored.
            undesired: which of the two.

        Returns:
            [m, C, H, W], float32 in [−1, 1] as far as the generator keeps to it.

        Raises:
            FastUnlearnError: the model is another one, or there is neither a model nor a stored image.
        """
        if model is not None:
            self.check_model(model)
        mask = self.label == int(undesired)
        if self.image is not None:
            return from_uint8(self.image[mask])
        if model is None:
            raise FastUnlearnError(f"{self.origin}: stores latents only; images need the model")
        if not mask.any():
            return torch.empty(0, *model.image_shape)
        return generate(model, self.z[mask], self.noise_seed[mask])

    def check_model(self, model: GenerativeModel) -> None:
        """Refuse a model that the latents do not belong to, or whose images have another shape.

        Raises:
            FastUnlearnError: names both hashes or both shapes and says what to do.
        """
        if self.has_latents and self.z.shape[1] != model.latent_dim:
            raise FastUnlearnError(
                f"{self.origin}: z has {self.z.shape[1]} numbers each, the model's latents have {model.latent_dim}"
            )
        if self.has_latents and (actual := generator_sha256(model)) != self.generator_sha256:
            raise FastUnlearnError(
                f"{self.origin}: labels images of generator {self.generator_sha256[:12]}, this one is "
                f"{actual[:12]}; use that generator or label this one's images"
            )
        if self.image is not None and self.image.shape[1:] != model.image_shape:
            raise FastUnlearnError(
                f"{self.origin}: images are {tuple(self.image.shape[1:])}, the model's are "
                f"{tuple(model.image_shape)}; resize them"
            )

    def require(self, undesired: int = 1, desired: int = 1) -> None:
        """Refuse feedback with fewer samples than a method needs.

        Raises:
            FastUnlearnError: says how many there are of which label, and how many it takes.
        """
        for name, found, needed in (
            ("undesired", self.n_undesired, undesired),
            ("desired", self.n_desired, desired),
        ):
            if found < needed:
                also = "" if name == "undesired" else ", also such as may stay"
                raise FastUnlearnError(
                    f"{self.origin}: {found or 'no'} {name} samples among {len(self)}, at least {needed} "
                    f"needed; label more images{also}"
                )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file: the tensors under their names, the strings as metadata.

        Raises:
            FastUnlearnError: the file could not be written.
        """
        tensors = {"z": self.z, "noise_seed": self.noise_seed, "label": self.label}
        if self.image is not None:
            tensors["image"] = self.image
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "source": self.source,
            "generator_sha256": self.generator_sha256,
        }
        if self.simulator is not None:
            metadata["simulator"] = json.dumps(asdict(self.simulator))
        if self.page is not None:
            metadata["page"] = self.page
        metadata[CHECKSUM] = _checksum(tensors, metadata)
        with atomic_write(path) as temporary:
            temporary.write_bytes(save({k: v.contiguous() for k, v in tensors.items()}, metadata))

    @classmethod
    def load(cls, path: str | Path) -> "Feedback":
        """Read what `save` wrote, bit for bit.

        Files of older versions have no checksum and are read without.

        Raises:
            FastUnlearnError: missing, truncated, another format or version, contents that cannot be, or others than
                were written.
        """
        require_no_pipe(path)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except FileNotFoundError as error:
            raise FastUnlearnError(f"{path}: no such feedback file") from error
        except (OSError, SafetensorError) as error:
            raise FastUnlearnError(f"{path}: truncated, or not a safetensors file; label the images again") from error
        if metadata.get("format") != FORMAT or not {"z", "noise_seed", "label"} <= tensors.keys():
            raise FastUnlearnError(f"{path}: a safetensors file, but not a feedback file")
        if metadata.get("version") != VERSION:
            version = repr(metadata.get("version", "none"))[1:-1]
            raise FastUnlearnError(
                f"{path}: is feedback version {version:.20}, this fastunlearn reads {VERSION}; upgrade fastunlearn"
            )
        feedback = cls(
            tensors["z"],
            tensors["noise_seed"],
            tensors["label"],
            tensors.get("image"),
            metadata.get("generator_sha256", ""),
            metadata.get("source", ""),
            simulator=_read_simulator(metadata.get("simulator"), path),
            page=metadata.get("page"),
            origin=str(path),
        )
        if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors, metadata):
            raise FastUnlearnError(
                f"{path}: was edited or damaged after it was written (its checksum is another one); "
                "take the file as it was written, or label the images again"
            )
        return feedback


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of all that a file holds but the checksum itself."""
    strings = {key: value for key, value in metadata.items() if key != CHECKSUM}
    return hashlib.sha256(f"{json.dumps(strings, sort_keys=True)}{state_sha256(tensors)}".encode()).hexdigest()


def _read_simulator(text: str | None, path: str | Path) -> Simulator | None:
    if text is None:
        return None
    try:
        values = json.loads(text)
        name, threshold = values["name"], values["threshold"]
        valid = isinstance(name, str) and (threshold is None or math.isfinite(threshold))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        valid = False
    if not valid:
        raise FastUnlearnError(f"{path}: simulator must be a name and a threshold, got {text!r:.60}")
    return Simulator(name, None if threshold is None else float(threshold))


def generator_sha256(model: GenerativeModel) -> str:
    """Hash of the weights that `model.generate` samples from: the average if there is one."""
    return state_sha256((model.generator if model.ema is None else model.ema).state_dict())
