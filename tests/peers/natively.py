"""``natively.py FAMILY SCRIPT ARGUMENTS…``: a script on its own ops, on the CPU, cured for today's torch.

What the launcher does to a script, less `install()`: device "cuda" is the CPU, samplers take a source, torchvision
knows ``range``, kernels that are compiled at import are not, since code for the CPU never calls them.
"""

import argparse
import os
import runpy
import sys
import types
from pathlib import Path

import torch
import torch.utils.cpp_extension

from fastunlearn.compat import rosinality
from fastunlearn.compat.cuda_on_cpu import cuda_on_cpu
from fastunlearn.compat.dropin import DropIn
from fastunlearn.compat.nvidia.family import _sampler_of_a_source

# Also for the processes that a script spawns.
NATIVE = str(Path(__file__).parent / "native")


def prepare(family: str) -> None:
    """This process can import the family's modules as they are."""
    torch.serialization.add_safe_globals([argparse.Namespace])
    torch.utils.cpp_extension.load = lambda *args, **kwargs: types.SimpleNamespace()
    patches = {"torch.utils.data.sampler": _sampler_of_a_source, "torchvision.utils": rosinality._range_argument}
    DropIn(f"{family}, natively", {}, patches).install()
    sys.path.append(NATIVE)
    os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), NATIVE])


if __name__ == "__main__":
    family, script, *arguments = sys.argv[1:]
    prepare(family)
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).resolve().parent)
    with cuda_on_cpu():
        runpy.run_path(script, run_name="__main__")
