import importlib

import pytest


@pytest.fixture(scope="session")
def torch_fidelity():
    """Skips where torch-fidelity is not installed, or its torchvision does not fit torch."""
    try:
        return importlib.import_module("torch_fidelity")
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torch_fidelity does not import: {error}")
