"""The packages themselves, where they are installed: their own tests' values, with their distance and with ours.

    pip install --no-deps pytorch-fid clean-fid torch-fidelity torchmetrics lightning-utilities torchvision

Each runs in a process of its own, with what `fid_peers.py` does. clean-fid's tests compare folders of images that only
its authors have; here it compares others, and the folders' values are its own.
"""

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkouts import environment, run

SCRIPT = Path(__file__).with_name("fid_peers.py")
PACKAGES = {
    "pytorch_fid": "pytorch_fid.fid_score",
    "cleanfid": "cleanfid.fid",
    "torchmetrics": "torchmetrics.image",
    "torch_fidelity": "torch_fidelity",
}
STOPS_AT_SCIPY_1_18 = ("pytorch_fid", "cleanfid")
# What their tests expect, beside the value that the package itself gives.
EXPECTED = {
    ("pytorch_fid", "equal covariances"): 2048.0,
    ("torchmetrics", "same images"): 0.0,
    ("torchmetrics", "memorisation-informed, same images"): 0.0,
}


@functools.cache
def refusal(package):
    """Why a package cannot be used here, or nothing."""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    command = [sys.executable, "-c", f"import {PACKAGES[package]}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    return f"{package} cannot be imported: {done.stderr.splitlines()[-1]}" if done.returncode else None


@functools.cache
def every_result(package, how):
    return json.loads(run(SCRIPT, package, how).splitlines()[-1])


def results(package, how, sqrtm="old"):
    return every_result(package, how)[sqrtm]


@pytest.fixture(params=PACKAGES)
def package(request):
    if why := refusal(request.param):
        pytest.skip(why)
    return request.param


@pytest.mark.parametrize("how", ["install", "import"])
def test_their_values(package, how):
    theirs, ours = results(package, "theirs"), results(package, how)
    assert ours.keys() == theirs.keys()
    for case, expected in theirs.items():
        if isinstance(expected, str):
            works = package in STOPS_AT_SCIPY_1_18 and "disp" in expected
            assert works or ours[case] == expected, case
        elif package == "torch_fidelity" and "samples" in case:
            n = int(case.split()[0])
            for k, (got, value) in enumerate(zip(ours[case], expected, strict=True), start=1):
                # Their test asks for five places. Of n ≤ d samples ours says 1e-6 of the trace, 2 d here.
                assert abs(got - value) <= (5e-6 if n > 2**k else 2e-6 * 2**k), (case, 2**k)
        else:
            np.testing.assert_allclose(ours[case], expected, rtol=2e-7, atol=1e-6, err_msg=case)


@pytest.mark.parametrize("how", ["install", "import"])
def test_values_of_their_tests(package, how):
    ours = results(package, how)
    for (name, case), expected in EXPECTED.items():
        assert name != package or ours[case] == expected, case


@pytest.mark.parametrize("how", ["install", "import"])
def test_scipy_without_disp(package, how):
    """As released, two of them stop there."""
    theirs, ours = results(package, "theirs", "new"), results(package, how, "new")
    stopped = [case for case, value in theirs.items() if "disp" in str(value)]
    assert bool(stopped) == (package in STOPS_AT_SCIPY_1_18)
    assert ours == results(package, how)
    assert not [case for case in stopped if isinstance(ours[case], str)]
