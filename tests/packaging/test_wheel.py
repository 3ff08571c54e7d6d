"""What people get: the wheel's name, its files, what its extension asks of Python and torch, and an import of it."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata, util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="session")
def sources():
    """Everything git would commit: tracked or not, but not ignored."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the clean tree is what git lists, and this is no git checkout")
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    return [name for name in listed if (ROOT / name).exists()]


@pytest.fixture(scope="session")
def wheel(sources, tmp_path_factory):
    """The wheel, built in a copy of the clean tree. Objects that are current are taken along, to save the time."""
    tree = tmp_path_factory.mktemp("tree")
    for name in sources:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name)
    if (ROOT / "build" / "objects").exists():
        shutil.copytree(ROOT / "build" / "objects", tree / "build" / "objects")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "dist"]
    run(*command, cwd=tree)
    (built,) = (tree / "dist").iterdir()
    return built


@pytest.fixture(scope="session")
def unpacked(wheel, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def test_one_wheel_for_every_python(wheel):
    assert re.fullmatch(r"fastunlearn-[\d.]+-cp310-abi3-\w+\.whl", wheel.name)


def test_wheel_holds_the_package_and_nothing_else(wheel, sources):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {name for name in sources if name.startswith("fastunlearn/") and name.endswith(".py")}
    expected |= {f"fastunlearn/{name}" for name in sources if re.fullmatch(r"kernels/(.*\.py|\w+/README\.md)", name)}
    expected |= {name for name in sources if name.startswith("fastunlearn/pretrained/")}
    page = r"fastunlearn/(evaluation|feedback)/page/[\w.]+\.(html|css|js|svg)"
    expected |= {name for name in sources if re.fullmatch(page, name)}
    expected.add("fastunlearn/_C.abi3.so")
    assert names == expected


def test_extension_uses_stable_interfaces_only(unpacked):
    if shutil.which("nm") is None:
        pytest.skip("needs nm (binutils)")
    lines = run("nm", "--dynamic", "--undefined-only", unpacked / "fastunlearn" / "_C.abi3.so").splitlines()
    symbols = {line.split()[-1].split("@")[0] for line in lines}
    assert {name for name in symbols if name.startswith(("Py", "_Py"))} == {"PyModule_Create2"}
    assert any(name.startswith("aoti_torch_") for name in symbols)
    assert not [name for name in symbols if re.match(r"_ZN?K?(2at|3c10|5torch)", name)]


def test_abi3audit_finds_nothing(wheel):
    pytest.importorskip("abi3audit")
    run(sys.executable, "-m", "abi3audit", "--strict", wheel)


def test_import_from_the_wheel(unpacked):
    """Away from the checkout, with every GPU hidden, and without torchvision."""
    program = """
import sys
sys.modules["torchvision"] = None
import fastunlearn, fastunlearn._C, torch
from fastunlearn import ops
x = torch.ones(1, 2, 2, 2)
assert ops.bias_act(x, torch.ones(2), act="linear").eq(2).all()
print(fastunlearn.__file__, fastunlearn._C.__file__)
"""
    environment = {**os.environ, "PYTHONPATH": str(unpacked), "CUDA_VISIBLE_DEVICES": ""}
    environment["FASTUNLEARN_REQUIRE_NATIVE"] = "1"
    paths = run(sys.executable, "-W", "error", "-c", program, cwd=unpacked.parent, env=environment).split()
    assert all(Path(path).is_relative_to(unpacked) for path in paths)


def test_kernels_is_no_top_level_package():
    result = subprocess.run([sys.executable, "-c", "import kernels"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    assert "ImportError: kernels: import fastunlearn.kernels" in result.stderr


def test_version_is_the_packages():
    import fastunlearn

    assert metadata.version("fastunlearn") == fastunlearn.__version__


def kernels_of_the_sources():
    """(namespace, name) of every kernel, mangled."""
    declaration = re.compile(r"__global__ void(?:\s+__launch_bounds__\([^()]*(?:\([^()]*\)[^()]*)*\))?\s+(\w+)\(")
    kernels = set()
    for text in (path.read_text() for path in ROOT.glob("csrc/*/*.cuh")):
        namespaces = re.search(r"^namespace ([\w:]+) {", text, re.MULTILINE)[1].split("::")
        kernels |= {
            tuple(f"{len(part)}{part}" for part in (namespaces[-1], name)) for name in declaration.findall(text)
        }
    return kernels


def test_cuda_kernels_for_every_architecture():
    """When nvcc built this extension, every kernel is there for each GPU generation, in all its instances."""
    from fastunlearn.kernels import registry

    import fastunlearn.ops  # noqa: F401 (declares all ops)
    from fastunlearn import _C

    if not registry.OPS["bias_act"].has_native("cuda"):
        pytest.skip("this extension was built without CUDA")
    found = functions_by_architecture(_C.__file__)
    architectures = [arch.removesuffix("+PTX") for arch in os.environ.get(*ARCHITECTURES).split(";")]
    first = found[f"sm_{architectures[0]}"]
    kernels = kernels_of_the_sources()
    assert len(kernels) > 20
    for namespace, name in kernels:
        assert any(re.search(f"{namespace}.*{name}", function) for function in first), f"{namespace} {name}"
    for architecture in architectures[1:]:
        assert found[f"sm_{architecture}"] == first, f"sm_{architecture}"


ARCHITECTURES = ("FASTUNLEARN_CUDA_ARCHS", "80;90a;100+PTX")


def functions_by_architecture(extension):
    """{"sm_80": names of the kernels compiled for it, …}, as cuobjdump lists them; Triton's wheel brings one."""
    tools = [shutil.which("cuobjdump")]
    spec = util.find_spec("triton")
    if spec is not None:
        tools.append(str(Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"))
    for tool in tools:
        if tool is not None and Path(tool).exists():
            found = {}
            for line in run(tool, "--dump-resource-usage", extension).splitlines():
                if match := re.match(r"arch = (\w+)", line):
                    functions = found.setdefault(match[1], set())
                elif match := re.match(r"\s*Function (\S+):", line):
                    # an anonymous namespace is named after the compilation
                    functions.add(re.sub(r"_GLOBAL__N_\w{8}", "", match[1]))
            return found
    pytest.skip("needs cuobjdump, from CUDA or from Triton's wheel")
