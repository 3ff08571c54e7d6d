"""What this machine has, and which of it is known not to go together: `fastunlearn doctor`.

A check looks at files, metadata and environment only; what it judges is not imported, since that may be what fails.
"""

import difflib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from .kernels import registry
from .training.record import version

VARIABLES = (
    "FASTUNLEARN_CUDA",
    "FASTUNLEARN_CUDA_ARCHS",
    "FASTUNLEARN_DATA",
    "FASTUNLEARN_PEERS",
    "FASTUNLEARN_REQUIRE_NATIVE",
    "FASTUNLEARN_SPAWNED",
    "FASTUNLEARN_TEST_EXTENSION",
    "FASTUNLEARN_TEST_FIBERS",
)
"""What fastunlearn, its build and its tests read from the environment."""

ALSO = ("CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "TRITON_INTERPRET")
PREFIXES = ("FASTUNLEARN_", "GLIBC_TUNABLES", "GOMP_", "KMP_", "MALLOC_", "MKL_", "OMP_")

KEEPING = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_")
"""What lets glibc keep memory that was freed."""

REBUILD = "pip install --no-build-isolation --no-deps --force-reinstall ."
"""In a checkout of fastunlearn."""

DRIVERS = {11: 450, 12: 525, 13: 580}
"""Oldest driver for each major version of CUDA (NVIDIA, CUDA Compatibility, table 1)."""


class Conflict(NamedTuple):
    """Two things that do not go together, and the one line that cures it."""

    problem: str
    fix: str


def machine() -> dict[str, str | None]:
    """CUDA, compilers, allocator and threads, as one line each; None where there is none."""
    driver, nvcc, compiler = nvidia_driver(), find_nvcc(), shlex.split(os.environ.get("CXX", "g++"))[0]
    return {
        "toolkit": f"CUDA {torch.version.cuda}, that torch was built with" if torch.version.cuda else None,
        "driver": f"NVIDIA {driver}" if driver else None,
        "nvcc": f"{_tool_version(nvcc)} ({nvcc})" if nvcc else None,
        "compiler": f"{_tool_version(compiler)} ({shutil.which(compiler)})" if shutil.which(compiler) else None,
        "allocator": allocator(),
        "threads": f"{torch.get_num_threads()} of {available_cores()} cores",
    }


def variables() -> dict[str, str]:
    """Those set here that fastunlearn, its allocator, threads or Triton read."""
    return {k: v for k, v in sorted(os.environ.items()) if k in ALSO or k.startswith(PREFIXES)}


def conflicts() -> Iterator[Conflict]:
    """All that the checks find."""
    yield from filter(None, (check() for check in CHECKS))


def find_nvcc() -> str | None:
    """Where setup.py looks."""
    homes = (os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH"))
    in_homes = (Path(home, "bin", "nvcc") for home in homes if home)
    return next((str(path) for path in in_homes if path.exists()), None) or shutil.which("nvcc")


def nvidia_driver() -> str | None:
    """The driver's version, such as 580.65.06."""
    lines = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]).split()
    return lines[0] if lines and re.fullmatch(r"[\d.]+", lines[0]) else None


def allocator() -> str:
    """Whose malloc, and whether it keeps the memory that tensors leave."""
    other = re.search(r"jemalloc|tcmalloc|mimalloc", os.environ.get("LD_PRELOAD", ""))
    if other:
        return other[0]
    tuned = [name for name in KEEPING if name in os.environ]
    tuned += ["GLIBC_TUNABLES"] if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") else []
    if tuned:
        return f"tuned ({', '.join(tuned)})"
    return f"plain; {', '.join(KEEPING[:-1])} and {KEEPING[-1]} would let it keep freed memory"


def available_cores() -> int:
    """Cores that this process may use: its affinity and its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = _cgroup_quota()
    return max(1, min(cores, -(-quota // period))) if quota > 0 else cores


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Microseconds of processor per microseconds of time, of cgroup 2 or 1; a quota of 0 or less is no limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        text = " ".join((root / name).read_text() for name in names if (root / name).is_file()).split()
        if len(text) == 2:
            return (0, 1) if text[0] == "max" else (int(text[0]), int(text[1]))
    return 0, 1


def kernels_that_do_not_load() -> Conflict | None:
    """Without them everything runs, in plain PyTorch."""
    if registry.LOAD_ERROR:
        return Conflict(" ".join(registry.LOAD_ERROR.split()), f"{REBUILD}  # in fastunlearn's checkout, torch >= 2.10")
    missing = sorted({c.op for c in registry.choices() if c.device == "cpu" and c.implementation == "reference"})
    if missing:
        return Conflict(f"the compiled kernels are older than this Python: no {', '.join(missing)} in them", REBUILD)
    return None


def card_without_our_kernels() -> Conflict | None:
    """Triton and plain PyTorch take their place; with nvcc at hand there is no need to."""
    nvcc = find_nvcc()
    if not (torch.cuda.is_available() and nvcc) or registry.LOAD_ERROR:
        return None
    if any(op.has_native("cuda") for op in registry.OPS.values()):
        return None
    return Conflict(
        f"there are a card and {nvcc}, but the CUDA kernels were not built", f"FASTUNLEARN_CUDA=1 {REBUILD}"
    )


def torch_without_cuda() -> Conflict | None:
    """A card that this torch cannot use."""
    driver = nvidia_driver()
    if driver is None or torch.version.cuda is not None:
        return None
    return Conflict(
        f"there is a card (driver {driver}), but torch {torch.__version__} was built without CUDA",
        "pip install --force-reinstall torch  # or the command that pytorch.org gives for this driver",
    )


def old_driver() -> Conflict | None:
    """A driver runs programs of its own major version of CUDA and of older ones."""
    driver, toolkit = nvidia_driver(), torch.version.cuda
    if driver is None or toolkit is None or torch.cuda.is_available():
        return None
    oldest = DRIVERS.get(int(toolkit.split(".")[0]), 0)
    if int(driver.split(".")[0]) >= oldest:
        return None
    return Conflict(
        f"torch was built with CUDA {toolkit}, which needs driver {oldest} or newer; this is {driver}",
        f"update the NVIDIA driver to {oldest} or newer, or install torch for an older CUDA",
    )


def torchvision_beside_torch() -> Conflict | None:
    """torchvision links against one version of torch, and one of CUDA; beside another its ops do not register.

    The import then ends in "operator torchvision::nms does not exist" (pytorch/vision#9085), and with it that of
    whatever uses torchvision.
    """
    ours, theirs = torch.__version__, _torchvision_version()
    if theirs is None:
        return None
    major, minor, patch = (*_release(ours), 0, 0)[:3]
    fitting = f"0.{minor + 15}.{patch}" if major == 2 else ""
    flavour = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda.replace('.', '')}"
    index = f"https://download.pytorch.org/whl/{flavour}"
    fix = f"pip install --force-reinstall --no-deps torchvision{'==' * bool(fitting)}{fitting} --index-url {index}"
    wanted = next((m[1] for r in _requirements("torchvision") if (m := re.match(r"torch\s*\(?==([\d.]+)", r))), None)
    if wanted is not None and _release(wanted) != _release(ours):
        return Conflict(f"torchvision {theirs} is for torch {wanted}, this is {ours}: it may not import", fix)
    built = re.search(r"\+(cpu|cu(\d+)\d)$", theirs)
    if built is None or torch.version.hip is not None or built[1] == flavour:
        return None
    if flavour == "cpu":
        return Conflict(f"torchvision {theirs} needs CUDA, torch {ours} has none: it does not import", fix)
    if built[1] == "cpu":
        return Conflict(
            f"torchvision {theirs} is for the CPU alone, torch {ours} is not: its ops fail on the card", fix
        )
    if built[2] != torch.version.cuda.split(".")[0]:
        return Conflict(f"torchvision {theirs} and torch {ours} are of different CUDA: it does not import", fix)
    return None


def scipy_without_disp() -> Conflict | None:
    """scipy.linalg.sqrtm has no argument `disp` from SciPy 1.18 on (scipy/scipy#24334)."""
    scipy = version("scipy")
    if scipy is None or _release(scipy) < (1, 18):
        return None
    for package, module in (("pytorch-fid", "pytorch_fid"), ("clean-fid", "cleanfid")):
        if _says(_folder(module), r"sqrtm\(.*\bdisp="):
            return Conflict(
                f"{package} {version(package) or ''} calls sqrtm(disp=), which SciPy {scipy} refuses".replace(
                    "  ", " "
                ),
                'pip install "scipy<1.18"',
            )
    return None


def setuptools_without_pkg_resources() -> Conflict | None:
    """setuptools 82 removed pkg_resources, which torch_utils.ops of NVIDIA's StyleGAN3 imports."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return None
    folders = [_folder("torch_utils"), Path.cwd() / "torch_utils"]
    for folder in folders:
        if folder is not None and _says(folder / "ops", r"^\s*(from|import) pkg_resources"):
            return Conflict(
                f"{folder}/ops imports pkg_resources, which setuptools {version('setuptools') or '(absent)'} has not",
                'pip install "setuptools<82"  # or fastunlearn.compat.stylegan3, which does without it',
            )
    return None


def triton_of_another_torch() -> Conflict | None:
    """torch's CUDA builds generate code for one version of Triton."""
    triton = version("triton")
    wanted = next((m[1] for r in _requirements("torch") if (m := re.match(r"triton\s*\(?==([\d.]+)", r))), None)
    if triton is None or wanted is None or _release(triton) == _release(wanted):
        return None
    return Conflict(
        f"torch {torch.__version__} needs Triton {wanted}, this is {triton}", f"pip install triton=={wanted}"
    )


def numpy_beside_the_interpreter() -> Conflict | None:
    """NumPy 2.4 makes no scalar of an array with one dimension, Triton's interpreter up to 3.6 does (triton#9171)."""
    numpy, folder = version("numpy"), _folder("triton")
    if os.environ.get("TRITON_INTERPRET") != "1" or numpy is None or _release(numpy) < (2, 4) or folder is None:
        return None
    if not _says(folder / "runtime", r"int\(self\.handle\.data\)"):
        return None
    return Conflict(
        f"Triton {version('triton')} cannot interpret kernels with NumPy {numpy}", 'pip install "numpy<2.4"'
    )


def more_threads_than_cores() -> Conflict | None:
    """Every parallel region then waits for threads that have no core."""
    threads, cores = torch.get_num_threads(), available_cores()
    if threads <= cores:
        return None
    return Conflict(
        f"torch uses {threads} threads, this process may use {cores} cores", f"export OMP_NUM_THREADS={cores}"
    )


def unknown_variables() -> Conflict | None:
    """A misspelt name would be ignored."""
    unknown = sorted(k for k in os.environ if k.startswith("FASTUNLEARN_") and k not in VARIABLES)
    if not unknown:
        return None
    nearest = difflib.get_close_matches(unknown[0], VARIABLES, n=1, cutoff=0)[0]
    return Conflict(f"nothing reads {unknown[0]}", f"unset {unknown[0]}  # the nearest that there is: {nearest}")


CHECKS: tuple[Callable[[], Conflict | None], ...] = (
    kernels_that_do_not_load,
    card_without_our_kernels,
    torch_without_cuda,
    old_driver,
    torchvision_beside_torch,
    scipy_without_disp,
    setuptools_without_pkg_resources,
    triton_of_another_torch,
    numpy_beside_the_interpreter,
    more_threads_than_cores,
    unknown_variables,
)


def _release(text: str) -> tuple[int, ...]:
    """2.13.0+cpu → (2, 13, 0)."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split("."))


def _requirements(package: str) -> list[str]:
    try:
        return metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return []


def _torchvision_version() -> str | None:
    """With the part after +, which PyPI's name of the package leaves out."""
    file = (_folder("torchvision") or Path()) / "version.py"
    found = re.search(r"__version__ = '(.+)'", file.read_text()) if file.is_file() else None
    return found[1] if found else version("torchvision")


def _folder(module: str) -> Path | None:
    """Where a top-level package lies; it is not imported."""
    spec = importlib.util.find_spec(module)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _says(folder: Path | None, pattern: str) -> bool:
    """Whether a line of the Python files right in a folder matches."""
    files = folder.glob("*.py") if folder else ()
    return any(re.search(pattern, file.read_text(errors="replace"), re.MULTILINE) for file in files)


def _tool_version(tool: str) -> str:
    found = re.search(r"\d+\.[\d.]*\d", _output([tool, "--version"]))
    return found[0] if found else "unknown version"


def _output(command: list[str]) -> str:
    """What a program prints; nothing where there is none or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
