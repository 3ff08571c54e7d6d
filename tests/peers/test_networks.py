"""Their networks with random weights, on their ops and on ours: forward, first and second gradients, 32 to 256 px.

`networks.py` does it, in processes of their own. The errors are relative, in float32, of a whole image or gradient.
"""

import pytest

FORWARD, GRADIENT = 1e-4, 1e-3
SIZES = (32, 64, 128, 256)
NETWORKS = [
    ("lucidrains", "stylegan2"),
    ("rosinality", "stylegan2"),
    ("stylegan2_ada", "stylegan2"),
    ("stylegan3", "stylegan2"),
    ("stylegan3", "stylegan3-t"),
    ("stylegan3", "stylegan3-r"),
]


def cases():
    """rosinality's widths are fixed, and StyleGAN3's layers many: beyond 32 px they take long."""
    for family, network in NETWORKS:
        for size in SIZES:
            long = (size > 32 and (family == "rosinality" or network.startswith("stylegan3-"))) or size > 128
            yield pytest.param(family, network, size, marks=[pytest.mark.slow] if long else [])


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("family", "network", "size"), list(cases()))
def test_networks(compared, family, network, size):
    found = compared(family, network, size)
    print(family, network, size, *(f"{name} {error:.1e}" for name, error in found["errors"].items()))
    assert found["changed"], "ours did not run: the results are theirs, bit for bit"
    assert found["uninstalled is theirs"]
    assert found["before import is after"]
    for name, error in found["errors"].items():
        assert error <= (GRADIENT if "gradients" in name else FORWARD), name


@pytest.mark.parametrize(
    ("family", "network"), [case for case in NETWORKS if case[1] == "stylegan2" and case[0] != "rosinality"]
)
def test_a_wrong_filter_is_found(compared, family, network):
    """A thousandth too much in our FIR filter."""
    errors = compared(family, network, 32, "1.001")["errors"]
    assert errors["image"] > FORWARD
    assert errors["first gradients"] > GRADIENT
    assert errors["path length gradients"] > GRADIENT
