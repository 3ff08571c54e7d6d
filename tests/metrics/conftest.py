import importlib

import pytest
import torch


@pytest.fixture(scope="session")
def torch_fidelity():
    """Skips where torch-fidelity is not installed, or its torchvision does not fit torch."""
    try:
        return importlib.import_module("torch_fidelity")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch_fidelity does not import: {error}")


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """Where InceptionV3's downloaded weights would lie."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = tmp_path / "torch" / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def random_weights(torch_fidelity, weights, monkeypatch):
    """Random weights in place of the download: what is compared is everything around them."""
    theirs = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    torch.manual_seed(0)
    with monkeypatch.context() as patched:
        patched.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        patched.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        torch.save(theirs.FeatureExtractorInceptionV3("random", ["2048"]).state_dict(), weights)
    return weights
