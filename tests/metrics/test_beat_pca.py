"""The example that holds a generator against principal components."""

import runpy
import sys
from pathlib import Path

import pytest
import torch

from fastunlearn.bundle import save_bundle
from fastunlearn.models.dcgan import DCGAN, DCGANConfig

EXAMPLE = Path(__file__).parents[2] / "docs/examples/beat_pca.py"


def test_it_prints_both_scores_and_the_untrained_generator_loses(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    torch.manual_seed(0)
    save_bundle(DCGAN(DCGANConfig(size=16, latent_dim=9, g_widths=(4, 4), d_widths=(4, 4))), tmp_path / "b", {})
    monkeypatch.setattr(sys, "argv", ["beat_pca.py", str(tmp_path / "b"), "--data", "digits", "--n", "300"])
    # Digits of 16 pixels are enlarged to 32, every pixel repeated, which is what averaging does there.
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    untrained, pca = capsys.readouterr().out.splitlines()
    assert untrained.startswith(f"{tmp_path / 'b'}: ")
    assert pca.startswith("PCA: ")
    assert "latent size 9 (" in pca
    assert "averaged 32x32" in pca
    assert float(pca.split()[1].rstrip(",")) < float(untrained.split(": ")[1].split(",")[0])
