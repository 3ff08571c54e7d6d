import importlib.util
import re
import sys

import pytest
import torch
from developer_build import ROOT
from fastunlearn.kernels import registry

from fastunlearn import diagnosis


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Installs packages that are found before all others; a package is its files, by path, and what it requires."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, version, files=(), requires=()):
        info = tmp_path / f"{name.replace('-', '_')}-{version.partition('+')[0]}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {version.partition('+')[0]}", *(f"Requires-Dist: {r}" for r in requires)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        for path, text in dict(files).items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        importlib.invalidate_caches()

    return install


@pytest.fixture
def this_torch(monkeypatch):
    def be(version, cuda=None, hip=None, card=False):
        monkeypatch.setattr(torch, "__version__", version)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: card)

    return be


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program on PATH, the only one there, that prints a text."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)

    def write(name, text, status=0):
        (folder / name).write_text(f"#!/bin/sh\necho '{text}'\nexit {status}\n")
        (folder / name).chmod(0o755)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("torchvision", "requires", "ours", "problem", "fix"),
    [
        (
            "0.28.0+cu130",
            "torch (==2.13.0)",
            ("2.13.0+cpu", None),
            "needs CUDA, torch 2.13.0+cpu has none",
            "0.28.0 cpu",
        ),
        ("0.28.0+cpu", "torch==2.13.0", ("2.13.0+cpu", None), None, None),
        ("0.28.0", "torch==2.13.0", ("2.13.0", "13.0"), None, None),
        ("0.28.0+cu130", "torch==2.13.0", ("2.13.0+cu130", "13.0"), None, None),
        ("0.28.0+cu126", "torch==2.13.0", ("2.13.0+cu128", "12.8"), None, None),
        ("0.28.0+cu126", "torch==2.13.0", ("2.13.0+cu130", "13.0"), "are of different CUDA", "0.28.0 cu130"),
        ("0.28.0+cpu", "torch==2.13.0", ("2.13.0+cu130", "13.0"), "is for the CPU alone", "0.28.0 cu130"),
        ("0.27.1+cpu", "torch==2.12.1", ("2.13.0+cpu", None), "is for torch 2.12.1, this is 2.13.0+cpu", "0.28.0 cpu"),
        ("0.27.1+cpu", "torch>=2.12", ("2.13.0+cpu", None), None, None),
    ],
)
def test_torchvision(site, this_torch, torchvision, requires, ours, problem, fix):
    files = {
        "torchvision/__init__.py": "raise RuntimeError('operator torchvision::nms does not exist')",
        "torchvision/version.py": f"__version__ = '{torchvision}'\ngit_version = '8fb8'\n",
    }
    site("torchvision", torchvision, files, ["numpy", requires])
    this_torch(*ours)
    found = diagnosis.torchvision_beside_torch()
    assert "torchvision" not in sys.modules
    if problem is None:
        assert found is None
    else:
        version, flavour = fix.split()
        assert problem in found.problem
        assert f"torchvision=={version} --index-url" in found.fix
        assert found.fix.endswith(f"/{flavour}")


def test_torchvision_of_rocm_is_left_alone(site, this_torch):
    site(
        "torchvision",
        "0.28.0",
        {"torchvision/__init__.py": "", "torchvision/version.py": "__version__ = '0.28.0+cu130'"},
    )
    this_torch("2.13.0+rocm7", hip="7.0")
    assert diagnosis.torchvision_beside_torch() is None


FID = "covmean, _ = linalg.sqrtm(sigma1.dot(sigma2), disp=False)\n"


@pytest.mark.parametrize(
    ("scipy", "package", "module", "code", "found"),
    [
        (
            "1.18.0",
            "pytorch-fid",
            "pytorch_fid",
            FID,
            "pytorch-fid 0.3.0 calls sqrtm(disp=), which SciPy 1.18.0 refuses",
        ),
        ("1.20.1", "clean-fid", "cleanfid", FID, "clean-fid 0.3.0 calls sqrtm(disp=), which SciPy 1.20.1 refuses"),
        ("1.17.1", "pytorch-fid", "pytorch_fid", FID, None),
        ("1.18.0", "pytorch-fid", "pytorch_fid", "covmean = linalg.sqrtm(sigma1.dot(sigma2))\n", None),
    ],
)
def test_scipy(site, scipy, package, module, code, found):
    site("scipy", scipy)
    site(package, "0.3.0", {f"{module}/__init__.py": "raise ImportError", f"{module}/fid.py": code})
    conflict = diagnosis.scipy_without_disp()
    assert (conflict and conflict.problem) == found
    assert conflict is None or conflict.fix == 'pip install "scipy<1.18"'


def test_scipy_alone_is_no_conflict(site, monkeypatch):
    site("scipy", "1.18.0")
    monkeypatch.setattr(diagnosis, "_folder", lambda module: None)
    assert diagnosis.scipy_without_disp() is None


@pytest.mark.parametrize("place", ["path", "cwd"])
@pytest.mark.parametrize("has", [True, False])
@pytest.mark.parametrize(
    "code", ["import torch\nfrom pkg_resources import parse_version\n", "# pkg_resources is not imported\n"]
)
def test_pkg_resources(site, monkeypatch, tmp_path, place, has, code):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: (find("os") if has else None) if n == "pkg_resources" else find(n)
    )
    folder = tmp_path if place == "path" else tmp_path / "elsewhere"
    (folder / "torch_utils/ops").mkdir(parents=True)
    (folder / "torch_utils/__init__.py").write_text("raise ImportError")
    (folder / "torch_utils/ops/conv2d_gradfix.py").write_text(code)
    monkeypatch.chdir(tmp_path / "elsewhere" if place == "cwd" else "/")
    found = diagnosis.setuptools_without_pkg_resources()
    if has or code.startswith("#"):
        assert found is None
    else:
        assert f"{folder}/torch_utils/ops imports pkg_resources" in found.problem
        assert found.fix.startswith('pip install "setuptools<82"')


@pytest.mark.parametrize(
    ("requires", "triton", "conflict"),
    [
        (['triton==3.6.0; platform_system == "Linux"'], "3.5.1", True),
        (['triton (==3.6.0) ; platform_system == "Linux"'], "3.5.1", True),
        (['triton==3.6.0; platform_system == "Linux"'], "3.6.0", False),
        (["sympy==1.13"], "3.5.1", False),
    ],
)
def test_triton(site, this_torch, requires, triton, conflict):
    site("torch", "2.13.0", requires=requires)
    site("triton", triton)
    this_torch("2.13.0+cu130", "13.0")
    found = diagnosis.triton_of_another_torch()
    assert found == (
        diagnosis.Conflict(f"torch 2.13.0+cu130 needs Triton 3.6.0, this is {triton}", "pip install triton==3.6.0")
        if conflict
        else None
    )


@pytest.mark.parametrize(
    ("numpy", "interpret", "code", "conflict"),
    [
        ("2.4.0", "1", "int(self.handle.data))", True),
        ("2.3.5", "1", "int(self.handle.data))", False),
        ("2.4.0", "0", "int(self.handle.data))", False),
        ("2.4.0", "1", "int(self.handle.data.squeeze()))", False),
    ],
)
def test_numpy_beside_the_interpreter(site, monkeypatch, numpy, interpret, code, conflict):
    site("numpy", numpy)
    site("triton", "3.6.0", {"triton/__init__.py": "", "triton/runtime/interpreter.py": f"lambda self: {code}\n"})
    monkeypatch.setattr(diagnosis, "_folder", lambda module: diagnosis.Path(sys.path[0]) / module)
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    found = diagnosis.numpy_beside_the_interpreter()
    assert (found is not None) == conflict
    assert found is None or found.fix == 'pip install "numpy<2.4"'


def test_kernels_that_do_not_load(monkeypatch):
    assert registry.LOAD_ERROR is None
    assert diagnosis.kernels_that_do_not_load() is None
    monkeypatch.setattr(registry, "LOAD_ERROR", "the compiled kernels did not load (undefined\n symbol: x)")
    found = diagnosis.kernels_that_do_not_load()
    assert found.problem == "the compiled kernels did not load (undefined symbol: x)"
    assert found.fix.startswith("pip install ")


def test_kernels_older_than_the_library(monkeypatch):
    import fastunlearn.ops  # noqa: F401 (declares all ops)

    monkeypatch.setattr(registry.OPS["bias_act"], "_native", set())
    found = diagnosis.kernels_that_do_not_load()
    assert found.problem == "the compiled kernels are older than this Python: no bias_act in them"


def test_card_without_our_kernels(program, this_torch, monkeypatch):
    for op in registry.OPS.values():
        monkeypatch.setattr(op, "_native", {"cpu"})
    this_torch("2.13.0+cu130", "13.0", card=True)
    assert diagnosis.card_without_our_kernels() is None  # no nvcc: Triton does it
    nvcc = program("nvcc", "release 13.0, V13.0.88")
    assert f"{nvcc}, but the CUDA kernels were not built" in diagnosis.card_without_our_kernels().problem
    assert diagnosis.card_without_our_kernels().fix.startswith("FASTUNLEARN_CUDA=1 pip install ")
    monkeypatch.setattr(registry.OPS["bias_act"], "_native", {"cpu", "cuda"})
    assert diagnosis.card_without_our_kernels() is None
    monkeypatch.setattr(registry.OPS["bias_act"], "_native", {"cpu"})
    this_torch("2.13.0+cpu")
    assert diagnosis.card_without_our_kernels() is None


@pytest.mark.parametrize(
    ("driver", "cuda", "card", "names"),
    [
        (None, None, False, []),
        (None, "13.0", False, []),
        ("580.65.06", None, False, ["torch_without_cuda"]),
        ("580.65.06", "13.0", True, []),
        ("580.65.06", "13.0", False, []),  # another reason, which torch tells
        ("570.86.15", "13.0", False, ["old_driver"]),
        ("570.86.15", "12.8", False, []),
    ],
)
def test_driver(program, this_torch, driver, cuda, card, names):
    if driver is not None:
        program("nvidia-smi", f"{driver}\n{driver}")
    this_torch("2.13.0", cuda, card=card)
    checks = (diagnosis.torch_without_cuda, diagnosis.old_driver)
    assert [check.__name__ for check in checks if check() is not None] == names
    if names == ["old_driver"]:
        assert "CUDA 13.0, which needs driver 580 or newer; this is 570.86.15" in diagnosis.old_driver().problem


def test_nvidia_smi_that_fails_is_no_driver(program):
    program("nvidia-smi", "NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver", status=9)
    assert diagnosis.nvidia_driver() is None
    program("nvidia-smi", "No devices were found")
    assert diagnosis.nvidia_driver() is None


def test_more_threads_than_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(diagnosis, "available_cores", lambda: 4)
    assert diagnosis.more_threads_than_cores() is None
    monkeypatch.setattr(diagnosis, "available_cores", lambda: 2)
    assert diagnosis.more_threads_than_cores() == diagnosis.Conflict(
        "torch uses 4 threads, this process may use 2 cores", "export OMP_NUM_THREADS=2"
    )


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
    ],
)
def test_cores_of_a_container(tmp_path, monkeypatch, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    quota = diagnosis._cgroup_quota(tmp_path)
    monkeypatch.setattr(diagnosis, "_cgroup_quota", lambda: quota)
    monkeypatch.setattr(diagnosis.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert diagnosis.available_cores() == cores


def test_misspelt_variable(monkeypatch):
    for name in [name for name in diagnosis.os.environ if name.startswith("FASTUNLEARN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FASTUNLEARN_REQUIRE_NATIVE", "1")
    assert diagnosis.unknown_variables() is None
    assert diagnosis.variables()["FASTUNLEARN_REQUIRE_NATIVE"] == "1"
    monkeypatch.setenv("FASTUNLEARN_REQUIRE_NATIV", "1")
    assert diagnosis.unknown_variables().fix == (
        "unset FASTUNLEARN_REQUIRE_NATIV  # the nearest that there is: FASTUNLEARN_REQUIRE_NATIVE"
    )


def test_variables_are_those_that_the_sources_read():
    found = set()
    for folder in (".", "fastunlearn", "kernels", "tests", "benchmarks"):
        for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py"):
            text = path.read_text()
            found |= set(re.findall(r"environ(?:\.get\(|\[)\s*\"(FASTUNLEARN_\w+)\"", text))
            found |= set(re.findall(r"^[A-Z_]+ = \"(FASTUNLEARN_\w+)\"", text, re.MULTILINE))
    assert found
    assert found <= set(diagnosis.VARIABLES), found - set(diagnosis.VARIABLES)


PLAIN = "plain; MALLOC_MMAP_THRESHOLD_, MALLOC_TOP_PAD_ and MALLOC_TRIM_THRESHOLD_ would let it keep freed memory"


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, PLAIN),
        ({"MALLOC_TRIM_THRESHOLD_": "1", "MALLOC_TOP_PAD_": "1"}, "tuned (MALLOC_TOP_PAD_, MALLOC_TRIM_THRESHOLD_)"),
        ({"GLIBC_TUNABLES": "glibc.malloc.top_pad=1"}, "tuned (GLIBC_TUNABLES)"),
        ({"GLIBC_TUNABLES": "glibc.cpu.x=1", "MALLOC_ARENA_MAX": "2"}, PLAIN),
        ({"LD_PRELOAD": "/usr/lib/libtcmalloc.so.4"}, "tcmalloc"),
    ],
)
def test_allocator(monkeypatch, variables, name):
    for known in [k for k in diagnosis.os.environ if k.startswith("MALLOC_")] + ["GLIBC_TUNABLES", "LD_PRELOAD"]:
        monkeypatch.delenv(known, raising=False)
    for variable, value in variables.items():
        monkeypatch.setitem(diagnosis.os.environ, variable, value)
    assert diagnosis.allocator() == name


def test_machine(program, this_torch, tmp_path, monkeypatch):
    this_torch("2.13.0+cpu")
    facts = diagnosis.machine()
    assert [name for name, value in facts.items() if value is None] == ["toolkit", "driver", "nvcc", "compiler"]
    this_torch("2.13.0+cu130", "13.0")
    program("nvidia-smi", "580.65.06")
    nvcc = program("nvcc", "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88")
    compiler = program("clang++-17", "clang version 17.0.6")
    monkeypatch.setenv("CXX", "clang++-17 -O1")
    facts = diagnosis.machine()
    assert facts["toolkit"] == "CUDA 13.0, that torch was built with"
    assert facts["driver"] == "NVIDIA 580.65.06"
    assert facts["nvcc"] == f"13.0 ({nvcc})"
    assert facts["compiler"] == f"17.0.6 ({compiler})"
    (tmp_path / "cuda/bin").mkdir(parents=True)
    nvcc.rename(tmp_path / "cuda/bin/nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    assert diagnosis.machine()["nvcc"] == f"13.0 ({tmp_path / 'cuda/bin/nvcc'})"


def test_every_check_is_asked():
    checks = [
        value
        for value in vars(diagnosis).values()
        if callable(value)
        and str(getattr(value, "__annotations__", {}).get("return")) == "fastunlearn.diagnosis.Conflict | None"
    ]
    assert len(checks) == len(diagnosis.CHECKS)
    assert set(checks) == set(diagnosis.CHECKS)
