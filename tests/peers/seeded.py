"""``seeded.py SCRIPT ARGUMENTS…``: the script with its random numbers seeded, for those that do not seed them."""

import random
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    runpy.run_path(sys.argv[0], run_name="__main__")
