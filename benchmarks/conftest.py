"""Options and fixtures of all benchmarks: which cases run, on which device, and against what besides eager PyTorch."""

import time

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--compile", action="store_true", help="time torch.compile of the reference too (slow to start)")
    parser.addoption("--full", action="store_true", help="run the cases marked `full` too (twice the time)")


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "default")  # torch.compile warns of torch's own
    config.addinivalue_line("markers", "full: like another case that runs, and left out without --full")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--full"):
        return
    left_out = [item for item in items if item.get_closest_marker("full")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def progress(request):
    """With -s: which case it is, of how many, and the time since the first began."""
    items, state = request.session.items, request.config.stash
    seconds = int(time.monotonic() - state.setdefault(STARTED, time.monotonic()))
    place = f"{items.index(request.node) + 1}/{len(items)}"
    name = request.node.name.encode().decode("unicode_escape")
    print(f"\n[{place}, {seconds // 60}:{seconds % 60:02}] {name}", end="", flush=True)


STARTED = pytest.StashKey[float]()


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
