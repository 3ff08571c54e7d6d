"""LeNet-5, the classifier of the digits, whose 84 penultimate activations are the digit features."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import FastUnlearnError
from ..files import atomic_write

FORMAT = "fastunlearn-lenet"


class LeNet(nn.Module):
    """Convolution 5×5, pool, convolution 5×5, pool, 120, 84, classes; ReLU and max pooling, no normalisation.

    The layout is LeCun et al. 1998 (Figure 2) with wider convolutions and today's nonlinearities. It has no
    layer that behaves differently in training, so `train()` and `eval()` give the same numbers.

    Args:
        in_channels: 1 or 3.
        n_classes: number of logits.
        widths: channels of the two convolutions; (6, 16) is the original.
    """

    def __init__(self, in_channels: int = 1, n_classes: int = 10, widths: tuple[int, int] = (16, 32)):
        super().__init__()
        self.in_channels, self.n_classes, self.widths = in_channels, n_classes, tuple(widths)
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 5),  # 32 -> 28
            nn.ReLU(),
            nn.MaxPool2d(2),  # 14
            nn.Conv2d(widths[0], widths[1], 5),  # 10
            nn.ReLU(),
            nn.MaxPool2d(2),  # 5
            nn.Flatten(),
            nn.Linear(widths[1] * 25, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
        )
        self.head = nn.Linear(84, n_classes)

    def features(self, x: Tensor) -> Tensor:
        """The 84 activations before the last layer.

        Args:
            x: [N, in_channels, 32, 32] in [−1, 1].

        Returns:
            [N, 84], not negative.
        """
        if x.ndim != 4 or x.shape[1:] != (self.in_channels, 32, 32):
            raise ValueError(f"LeNet: x must be [N, {self.in_channels}, 32, 32], got {tuple(x.shape)}")
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, n_classes] of images [N, in_channels, 32, 32] in [−1, 1]."""
        return self.head(self.features(x))

    def save(self, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
        """Write weights, layout and further `metadata` to one safetensors file."""
        layout = {
            "format": FORMAT,
            "in_channels": str(self.in_channels),
            "n_classes": str(self.n_classes),
            "widths": ",".join(map(str, self.widths)),
        }
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_write(path) as temporary:
            try:
                save_file(state, temporary, metadata={**(metadata or {}), **layout})
            except SafetensorError as error:
                raise FastUnlearnError(f"cannot write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> "LeNet":
        """Read what `save` wrote; the model comes back in `eval()` without gradients.

        Raises:
            FastUnlearnError: missing, truncated, or not a LeNet of this project.
        """
        layout, state = read_lenet(path)
        try:
            widths = tuple(int(width) for width in layout["widths"].split(","))
            model = cls(int(layout["in_channels"]), int(layout["n_classes"]), widths)
            model.load_state_dict(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise FastUnlearnError(f"{path}: the weights do not fit their layout; replace the file") from error
        return model.eval().requires_grad_(False)


def read_lenet(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and weights of a file that `LeNet.save` wrote.

    Raises:
        FastUnlearnError: missing, truncated, or another safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError as error:
        raise FastUnlearnError(f"{path}: no such classifier file") from error
    except (OSError, SafetensorError) as error:
        raise FastUnlearnError(f"{path}: truncated or damaged classifier file; replace it") from error
    if metadata.get("format") != FORMAT:
        raise FastUnlearnError(f"{path}: not a LeNet file; make one with `fastunlearn train-classifier`")
    return metadata, state
