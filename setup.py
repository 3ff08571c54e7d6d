"""Builds the one extension, ``fastunlearn._C``; everything else about the package stands in pyproject.toml.

Environment
    FASTUNLEARN_CUDA=auto|1|0   compile csrc/*/*_cuda.cu: when nvcc is found, always (else stop), never
    FASTUNLEARN_CUDA_ARCHS      GPU architectures, default ``80;90a;100+PTX``
    CUDA_HOME                   where nvcc is, when it is not on PATH
    CXX, MAX_JOBS               host compiler, number of compilers at once

Objects lie in build/objects, named after a digest of their command, and are compiled again only when a source or
an included header is newer: a CPU-only and a CUDA build share them, and neither undoes the other's work.
"""

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

os.chdir(Path(__file__).parent)
OBJECTS = Path("build/objects")  # relative, like every path here: a moved tree finds them current
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000ULL"  # every torch >= 2.10 can load the result
CXX_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", STABLE_ABI]
NVCC_FLAGS = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden", STABLE_ABI]


def find_nvcc() -> str | None:
    """The nvcc to use, or None for a CPU-only build. Never asks for a GPU: a wheel is built where none is."""
    wanted = os.environ.get("FASTUNLEARN_CUDA", "auto")
    if wanted not in ("auto", "1", "0"):
        raise SystemExit(f"FASTUNLEARN_CUDA must be auto, 1 or 0, got {wanted!r}")
    if wanted == "0":
        return None
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for home in [*homes, "/usr/local/cuda"]:
        if (Path(home) / "bin" / "nvcc").exists():
            return str(Path(home) / "bin" / "nvcc")
    nvcc = shutil.which("nvcc")
    if nvcc is None and wanted == "1":
        raise SystemExit("FASTUNLEARN_CUDA=1, but there is no nvcc: set CUDA_HOME or put it on PATH")
    return nvcc


def gencode_flags() -> list[str]:
    """``80;90a;100+PTX`` as nvcc's -gencode flags."""
    flags = []
    for arch in os.environ.get("FASTUNLEARN_CUDA_ARCHS", "80;90a;100+PTX").split(";"):
        number = arch.removesuffix("+PTX")
        flags += ["-gencode", f"arch=compute_{number},code=sm_{number}"]
        if arch.endswith("+PTX"):
            flags += ["-gencode", f"arch=compute_{number},code=compute_{number}"]
    return flags


def include_flags() -> list[str]:
    """Our headers and torch's."""
    from torch.utils.cpp_extension import include_paths

    # As system headers, torch's own give no warnings; they change only with torch's version, which names the object.
    return ["-Icsrc", *(flag for path in include_paths() for flag in ("-isystem", path))]


def compile_command(source: Path, nvcc: str | None) -> list[str]:
    """Compiler and flags for a source, without its own name or output."""
    if source.suffix == ".cu":
        return [nvcc, *NVCC_FLAGS, *gencode_flags(), *include_flags()]
    cxx = shlex.split(os.environ.get("CXX", "g++"))
    python = ["-DPy_LIMITED_API=0x030a0000", f"-I{sysconfig.get_paths()['include']}"]
    return [*cxx, *CXX_FLAGS, *python, *include_flags()]


def is_current(target: Path, depfile: Path) -> bool:
    """True when the target is newer than everything its make-style dependency file names."""
    if not (target.exists() and depfile.exists()):
        return False
    names = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    built = target.stat().st_mtime
    return all(os.path.exists(name) and os.path.getmtime(name) <= built for name in names)


def compile_object(source: Path, nvcc: str | None) -> Path:
    """Compile one source unless its object is current; return the object."""
    command = compile_command(source, nvcc)
    digest = hashlib.sha256("\0".join([metadata.version("torch"), *command]).encode()).hexdigest()[:12]
    target = OBJECTS / f"{source.stem}{source.suffix}.{digest}.o"
    depfile = target.with_suffix(".d")
    if not is_current(target, depfile):
        print(f"{command[0]} {source}", flush=True)
        unfinished = target.with_suffix(".tmp.o")
        started = time.time()
        command += ["-MMD", "-MF", str(depfile), "-c", str(source), "-o", str(unfinished)]
        if subprocess.run(command).returncode != 0:
            raise SystemExit(f"{source} did not compile: {shlex.join(command)}")
        os.utime(unfinished, (started, started))  # a source edited meanwhile is newer
        unfinished.replace(target)
    return target


def link(objects: list[Path], target: Path, nvcc: str | None) -> None:
    """Link the extension."""
    import torch

    libraries = ["-L" + str(Path(torch.__file__).parent / "lib")]
    # libtorch registers the CUDA backend's hooks, yet no symbol of it is used directly: keep it needed.
    keep = ["--no-as-needed", "-ltorch", "--as-needed", "-ltorch_cpu", "-lc10"]
    if nvcc:
        command = [nvcc, "-shared", "-cudart=static", *libraries, "-Xlinker", ",".join(keep)]
    else:
        command = [*shlex.split(os.environ.get("CXX", "g++")), "-shared", *libraries, "-Wl," + ",".join(keep)]
    # A process that has the old file mapped keeps it: write beside, then rename.
    unfinished = target.with_name(target.name + ".tmp")
    subprocess.run([*command, "-o", str(unfinished), *map(str, objects)], check=True)
    unfinished.replace(target)


@contextmanager
def build_lock():
    """One build at a time in this tree; a second one waits and then finds the objects ready."""
    OBJECTS.mkdir(parents=True, exist_ok=True)
    with open(OBJECTS / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class BuildExtension(build_ext):
    """Parallel, incremental, and with nvcc called directly: torch's CUDAExtension refuses beside a CPU torch."""

    def run(self):
        """Hold the lock until the finished file has been copied into the tree."""
        with build_lock():
            super().run()

    def build_extension(self, extension):
        """Compile what is out of date, then link."""
        nvcc = find_nvcc()
        sources = [Path(source) for source in extension.sources if nvcc or not source.endswith(".cu")]
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            objects = list(pool.map(lambda source: compile_object(source, nvcc), sources))
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        link(objects, target, nvcc)


PATTERNS = ("csrc/*.cpp", "csrc/*/*.cpp", "csrc/*/*.cu")
SOURCES = sorted(path.as_posix() for pattern in PATTERNS for path in Path().glob(pattern))
KERNEL_PACKAGES = ["fastunlearn.kernels"] + [f"fastunlearn.kernels.{name}" for name in find_packages("kernels")]

setup(
    packages=find_packages(include=["fastunlearn*"]) + KERNEL_PACKAGES,
    package_dir={"fastunlearn.kernels": "kernels"},
    ext_modules=[Extension("fastunlearn._C", SOURCES, py_limited_api=True)],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
