"""Options and fixtures of all benchmarks: on which device they run, and against what besides eager PyTorch."""

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--compile", action="store_true", help="time torch.compile of the reference too (slow to start)")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "default")  # torch.compile warns of torch's own


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])], scope="session")


@pytest.fixture
def contenders(request):
    """contenders(reference, native) → {"reference": …, "native": …}; "triton" on a card; with --compile "compiled",
    which cannot be differentiated twice.
    """

    def choose(reference, native, twice=False):
        functions = {"reference": reference, "native": native}
        if "triton" in request.module.IMPLEMENTATIONS and request.getfixturevalue("device") == "cuda":
            functions["triton"] = request.module.IMPLEMENTATIONS["triton"]
        if request.config.getoption("--compile") and not twice:
            torch.compiler.reset()
            functions["compiled"] = torch.compile(reference, dynamic=False)
        return functions

    return choose
