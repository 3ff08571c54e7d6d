import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from fastunlearn.bundle import save_bundle
from fastunlearn.cli import main
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config


class Brightness(nn.Module):
    """Two classes: 1 where the image is brighter than `threshold`, else 0."""

    def __init__(self, threshold: float):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(threshold))

    def forward(self, x):
        brighter = x.mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-brighter, brighter], dim=1)


class WithFeatures(Brightness):
    """The same with features: mean and spread of the image's columns."""

    @torch.jit.export
    def features(self, x):
        return torch.cat([x.mean(dim=(1, 2)), x.std(dim=(1, 2))], dim=1)


@pytest.fixture(scope="session")
def gan(tmp_path_factory):
    """An untrained bundle of 8 px, and a TorchScript classifier that splits its images in halves."""
    folder = tmp_path_factory.mktemp("gan")
    torch.manual_seed(0)
    sizes = {"size": 8, "latent_dim": 4, "style_dim": 4, "mapping_layers": 1, "g_widths": (4, 4), "d_widths": (4, 4)}
    model = StyleGAN2(StyleGAN2Config(**sizes))
    save_bundle(model, folder / "bundle", {})
    images = model.generate(model.sample_latents(400))
    threshold = images.mean(dim=(1, 2, 3)).median().item()
    script(Brightness(threshold), folder / "classifier.pt")
    script(Brightness(1e9), folder / "blind.pt")
    script(WithFeatures(threshold), folder / "with_features.pt", torch.jit.script)
    return folder


def script(module, path, compile=lambda module: torch.jit.trace(module, torch.zeros(2, 1, 8, 8))):
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.jit.save(compile(module), path)


@pytest.fixture
def cli(capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def process():
    """Start a command in a process of its own."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-c", "import sys; from fastunlearn.cli import main; sys.exit(main())"]
        child = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.wait()
        child.stderr.close()
