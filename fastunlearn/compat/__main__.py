"""``python -m fastunlearn.compat FAMILY -- SCRIPT ARGUMENTS…``: an untouched script on our ops."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from . import FAMILIES
from .processes import prepared


def main(arguments: Sequence[str] | None = None) -> None:
    """Install a family and run a script, or with -m a module, as ``python`` would."""
    parser = argparse.ArgumentParser(
        prog="python -m fastunlearn.compat",
        usage="%(prog)s FAMILY [--cpu] -- SCRIPT [ARGUMENTS…]   or   … -- -m MODULE [ARGUMENTS…]",
        description="Run an untouched script on the ops of fastunlearn.",
    )
    parser.add_argument("family", choices=FAMILIES, help="whose ops the script carries, or the package that it uses")
    parser.add_argument(
        "--cpu",
        action="store_true",
        default=not torch.cuda.is_available(),
        help='device "cuda" means the CPU; on by itself where there is no card',
    )
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--" not in arguments:
        parser.parse_args(arguments)
        parser.error("-- SCRIPT is missing")
    split = arguments.index("--")
    options, script = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    is_module = script[:1] == ["-m"]
    script = script[is_module:]
    if not script or not (is_module or Path(script[0]).is_file()):
        parser.error(f"no such script: {script[0]}" if script else "-- SCRIPT is missing")

    sys.argv = script
    if options.cpu:
        print(f'fastunlearn.compat: device "cuda" means the CPU in {script[0]}', file=sys.stderr)
    with prepared(options.family, options.cpu):
        if is_module:
            sys.path.insert(0, "")
            runpy.run_module(script[0], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(script[0]).resolve().parent))
            runpy.run_path(script[0], run_name="__main__")


if __name__ == "__main__":
    main()
