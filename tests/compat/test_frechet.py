"""The Fréchet distance of four packages, ours while their family is installed: values, types, refusals."""

import importlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from fastunlearn.errors import FastUnlearnError
from fastunlearn.metrics import frechet_distance

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((40, 6)), 0.5 + RNG.standard_normal((50, 6))
# As each family's users reach it, from two sets of features.
REACHED = {
    "cleanfid": lambda one, two: importlib.import_module("cleanfid.fid").fid_from_feats(one, two),
    "pytorch_fid": lambda one, two: importlib.import_module("pytorch_fid.fid_score").calculate_frechet_distance(
        *moments(one), *moments(two)
    ),
    "torch_fidelity": lambda one, two: importlib.import_module("torch_fidelity").calculate_metrics(one, two, False)[
        "frechet_inception_distance"
    ],
    "torchmetrics": lambda one, two: torchmetrics_value(one, two),
}


def moments(features):
    return features.mean(0), np.cov(features, rowvar=False)


def torchmetrics_value(one, two, dtype=torch.float64):
    metric = importlib.import_module("torchmetrics.image").FrechetInceptionDistance(torch.nn.Flatten())
    metric.update(torch.tensor(one, dtype=dtype), real=True)
    metric.update(torch.tensor(two, dtype=dtype), real=False)
    return metric.compute()


def root(product):
    values, vectors = np.linalg.eig(product)
    return (vectors * np.sqrt(values.astype(complex))) @ np.linalg.inv(vectors)


@pytest.fixture
def scipy_before_1_18(monkeypatch):
    def sqrtm(A, disp=True):
        return root(A) if disp else (root(A), 0.0)

    monkeypatch.setattr(scipy.linalg, "sqrtm", sqrtm)


@pytest.fixture
def scipy_1_18(monkeypatch):
    monkeypatch.setattr(scipy.linalg, "sqrtm", lambda A: root(A))


@pytest.fixture
def calls(monkeypatch):
    """How often ours is called."""
    counted = []

    def count(*args, **kwargs):
        counted.append(args)
        return frechet_distance(*args, **kwargs)

    for name in ("pytorch_fid", "torch_fidelity", "torchmetrics"):
        monkeypatch.setattr(importlib.import_module(f"fastunlearn.compat.{name}"), "frechet_distance", count)
    return counted


# ---- what is exchanged -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("scipy_before_1_18")
@pytest.mark.parametrize("first", ["install", "import"])
@pytest.mark.parametrize("family", REACHED)
def test_same_values(foreign, calls, family, first):
    dropin = foreign.family(family)
    if first == "import":
        theirs = REACHED[family](*FEATURES)
        assert not calls
    with dropin.installed():
        ours = REACHED[family](*FEATURES)
        assert len(calls) == 1
    if first == "install":
        theirs = REACHED[family](*FEATURES)
    assert len(calls) == 1
    assert float(ours) == pytest.approx(float(theirs), abs=1e-10)
    assert float(ours) == pytest.approx(frechet_distance(*moments(FEATURES[0]), *moments(FEATURES[1])), rel=1e-13)
    assert type(ours) is type(theirs)


@pytest.mark.parametrize("first", ["install", "import"])
@pytest.mark.parametrize(
    ("family", "module", "name"),
    [
        ("pytorch_fid", "pytorch_fid.fid_score", "calculate_frechet_distance"),
        ("cleanfid", "cleanfid.fid", "frechet_distance"),
        ("torchmetrics", "torchmetrics.image.fid", "_compute_fid"),
        ("torch_fidelity", "torch_fidelity.metric_fid", "fid_statistics_to_metric"),
    ],
)
def test_imported_by_name(foreign, family, module, name, first):
    """A project's module that has imported the function keeps its name for it."""
    dropin = foreign.family(family)
    (foreign.folder / "evaluation.py").write_text(f"from {module} import {name} as distance\n")
    foreign.nested(family, "elsewhere")  # puts the folder on the path
    if first == "install":
        dropin.install()
    project = importlib.import_module("evaluation")
    theirs = project.distance
    dropin.install()
    assert project.distance is getattr(sys.modules[module], name)
    assert (project.distance is theirs) == (first == "install")
    dropin.uninstall()
    assert first == "install" or project.distance is theirs


@pytest.mark.usefixtures("scipy_1_18")
@pytest.mark.parametrize("first", ["install", "import"])
@pytest.mark.parametrize("family", ["pytorch_fid", "cleanfid"])
def test_scipy_without_disp(foreign, family, first):
    """As released both stop there."""
    dropin = foreign.family(family)
    if first == "import":
        with pytest.raises(TypeError, match="disp"):
            REACHED[family](*FEATURES)
    with dropin.installed():
        assert REACHED[family](*FEATURES) > 0
    with pytest.raises(TypeError, match="disp"):
        REACHED[family](*FEATURES)


def test_a_copy_of_fid_score(foreign, calls):
    dropin = foreign.family("pytorch_fid")
    foreign.nested("pytorch_fid/pytorch_fid", "my.metrics")
    (foreign.folder / "fid_score.py").write_text("def calculate_frechet_distance(features, real):\n    return 1\n")
    dropin.install()
    copy = importlib.import_module("my.metrics.fid_score")
    copy.calculate_frechet_distance(*moments(FEATURES[0]), *moments(FEATURES[1]))
    assert len(calls) == 1
    assert importlib.import_module("fid_score").calculate_frechet_distance(0, 0) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("first", ["install", "import"])
def test_another_version(foreign, first):
    """What is not there, or takes other arguments, is not passed over in silence."""
    dropin = importlib.import_module("fastunlearn.compat.torchmetrics")
    package = foreign.folder / "torchmetrics" / "image"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "fid.py").write_text("def _compute_fid(features, real):\n    return 1\n")
    sys.path.insert(0, str(foreign.folder))
    message = r"torchmetrics\.image\.fid: _compute_fid\(mu1, sigma1, mu2, sigma2\) is not in it"
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmetrics"]:
        foreign.patch.delitem(sys.modules, name)
    if first == "import":
        importlib.import_module("torchmetrics.image.fid")
        finders = list(sys.meta_path)
        with pytest.raises(FastUnlearnError, match=message):
            dropin.install()
        assert sys.meta_path == finders
        return
    dropin.install()
    with pytest.raises(FastUnlearnError, match=message):
        importlib.import_module("torchmetrics.image.fid")


def test_all_together(foreign, calls):
    dropins = [foreign.family(family) for family in REACHED]
    for dropin in dropins:
        dropin.install()
    for family in REACHED:
        REACHED[family](*FEATURES)
    assert len(calls) == len(REACHED)


# ---- how ours differs ------------------------------------------------------------------------------------------------


@pytest.fixture
def fid_score(foreign):
    foreign.family("pytorch_fid").install()
    return importlib.import_module("pytorch_fid.fid_score")


def test_nothing_is_regularised_or_printed(fid_score, capsys):
    """Singular products: eps goes unused."""
    mu, one, two = np.zeros(2), np.diag([1.0, 0.0]), np.diag([0.0, 1.0])
    for eps in (1e-6, 1.0):
        assert fid_score.calculate_frechet_distance(mu, one, mu, two, eps) == 2.0
    assert capsys.readouterr() == ("", "")


def test_identical_input_is_exactly_zero(fid_score):
    few = moments(RNG.standard_normal((8, 64)))
    assert fid_score.calculate_frechet_distance(*few, *few) == 0.0


def test_float32_becomes_float64(fid_score):
    exact = fid_score.calculate_frechet_distance(*moments(FEATURES[0]), *moments(FEATURES[1]))
    rounded = [x.astype(np.float32) for features in FEATURES for x in moments(features)]
    value = fid_score.calculate_frechet_distance(*rounded)
    assert value.dtype == np.float64
    assert value == pytest.approx(exact, rel=1e-5)
    assert value == frechet_distance(*(x.astype(np.float64) for x in rounded))


def test_numbers_are_one_dimension(fid_score):
    assert fid_score.calculate_frechet_distance(0.0, 1.0, 1.0, 4.0) == 2.0


@pytest.mark.parametrize("family", REACHED)
@pytest.mark.parametrize(
    ("where", "broken", "message"),
    [
        (0, lambda mu: mu * np.nan, "mu1 must be finite"),
        (2, lambda mu: mu + np.inf, "mu2 must be finite"),
        (1, lambda sigma: sigma * np.nan, "sigma1 must be finite"),
        (3, lambda sigma: sigma + np.triu(np.ones_like(sigma), 1), "sigma2 must be symmetric"),
        (3, lambda sigma: -sigma, "sigma2 must be positive semidefinite"),
        (0, lambda mu: mu[1:], "mu2 must be"),
        (3, lambda sigma: sigma[1:, 1:], "sigma2 must be"),
    ],
)
def test_refusals_name_the_argument(foreign, family, where, broken, message):
    arguments = [moment for features in FEATURES for moment in moments(features)]
    arguments[where] = broken(arguments[where])
    foreign.family(family).install()
    if family == "torch_fidelity":
        function = importlib.import_module("torch_fidelity.metric_fid").fid_statistics_to_metric
        one, two = ({"mu": mu, "sigma": sigma} for mu, sigma in (arguments[:2], arguments[2:]))
        arguments = one, two, False
    elif family == "torchmetrics":
        function = importlib.import_module("torchmetrics.image.fid")._compute_fid
        arguments = map(torch.tensor, arguments)
    else:
        module, name = {
            "cleanfid": ("cleanfid.fid", "frechet_distance"),
            "pytorch_fid": ("pytorch_fid.fid_score", "calculate_frechet_distance"),
        }[family]
        function = getattr(importlib.import_module(module), name)
    with pytest.raises(ValueError, match=message):
        function(*arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_dtype_of_torchmetrics(foreign, dtype):
    """Of the features; moments of any type are raised to float64 and the result goes back."""
    foreign.family("torchmetrics").install()
    value = torchmetrics_value(*FEATURES, dtype=dtype)
    assert value.dtype == dtype
    assert value.shape == ()
    exact = frechet_distance(*moments(FEATURES[0]), *moments(FEATURES[1]))
    assert float(value) == pytest.approx(exact, rel=4 * torch.finfo(dtype).eps)
    tensors = [torch.tensor(moment, dtype=dtype) for features in FEATURES for moment in moments(features)]
    if dtype.itemsize >= 4:
        value = importlib.import_module("torchmetrics.image.fid")._compute_fid(*tensors)
        assert (value.dtype, value.shape, value.device) == (dtype, (), tensors[0].device)
        assert float(value) == pytest.approx(exact, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_of_torchmetrics(foreign):
    foreign.family("torchmetrics").install()
    tensors = [torch.tensor(moment, device="cuda") for features in FEATURES for moment in moments(features)]
    value = importlib.import_module("torchmetrics.image.fid")._compute_fid(*tensors)
    assert (value.dtype, value.device) == (torch.float64, tensors[0].device)


def test_gradients_of_torchmetrics_are_theirs(foreign, calls):
    foreign.family("torchmetrics").install()
    distance = importlib.import_module("torchmetrics.image.fid")._compute_fid
    mu1, sigma1, mu2, sigma2 = (torch.tensor(moment) for features in FEATURES for moment in moments(features))
    mu1.requires_grad_()
    (gradient,) = torch.autograd.grad(distance(mu1, sigma1, mu2, sigma2), mu1)
    torch.testing.assert_close(gradient, 2 * (mu1 - mu2).detach())
    assert not calls
    with torch.no_grad():
        assert not distance(mu1, sigma1, mu2, sigma2).requires_grad
    assert len(calls) == 1


@pytest.mark.parametrize("first", ["install", "import"])
def test_memorisation_informed_distance(foreign, calls, first):
    dropin = foreign.family("torchmetrics")
    if first == "import":
        importlib.import_module("torchmetrics.image")
    dropin.install()
    tensors = [torch.tensor(moment) for features in FEATURES for moment in moments(features)]
    distance = importlib.import_module("torchmetrics.image.mifid")._mifid_compute
    assert float(distance(*tensors, 0.5)) == pytest.approx(2 * frechet_distance(*(t.numpy() for t in tensors)))
    assert len(calls) == 1


@pytest.mark.parametrize("verbose", [True, False])
def test_torch_fidelity_says_its_result(foreign, capsys, verbose):
    dropin = foreign.family("torch_fidelity")
    package = importlib.import_module("torch_fidelity")
    theirs, printed = package.calculate_metrics(*FEATURES, verbose), capsys.readouterr()
    with dropin.installed():
        found = package.calculate_metrics(*FEATURES, verbose)
    assert capsys.readouterr() == printed
    assert bool(printed.err) == verbose
    assert found.keys() == theirs.keys()
    assert type(found["frechet_inception_distance"]) is float


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def statistics(tmp_path):
    """Two npz files, and a scipy without disp where the command runs."""
    for name, features in zip("ab", FEATURES, strict=True):
        mu, sigma = moments(features)
        np.savez(tmp_path / f"{name}.npz", mu=mu, sigma=sigma)
    (tmp_path / "sitecustomize.py").write_text("import scipy.linalg\nscipy.linalg.sqrtm = lambda A: 1 / 0\n")
    path = os.pathsep.join(map(str, (ROOT, tmp_path, ROOT / "tests" / "compat" / "doubles" / "pytorch_fid")))
    expected = frechet_distance(*moments(FEATURES[0]), *moments(FEATURES[1]))
    return {"folder": tmp_path, "path": path}, f"FID:  {expected}\n"


def test_the_package_as_a_program(compat, statistics):
    where, expected = statistics
    done = compat("pytorch_fid", "--", "-m", "pytorch_fid", "a.npz", "b.npz", "--device", "cuda", **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_a_script_that_uses_it(compat, statistics):
    """The console script `pytorch-fid` is one, too."""
    where, expected = statistics
    script = "import sys\nfrom pytorch_fid.fid_score import main\nsys.exit(main())\n"
    (where["folder"] / "pytorch-fid").write_text(script)
    done = compat("pytorch_fid", "--", "pytorch-fid", "a.npz", "b.npz", **where)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_the_changed_module_as_the_program_is_refused(compat, statistics):
    where, _ = statistics
    done = compat("pytorch_fid", "--", "-m", "pytorch_fid.fid_score", "a.npz", "b.npz", **where)
    assert done.returncode == 1
    assert "fastunlearn.compat changes pytorch_fid.fid_score when it is imported" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
