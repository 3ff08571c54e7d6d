"""Memory that large CPU results leave behind for the next ones (``csrc/common/block_cache.h``)."""

import torch

from . import registry

registry._library.define("empty_cache() -> int")


def empty_cache() -> int:
    """Give back to the system the CPU memory that is kept for results to come.

    Results of 1 MB or more lie in blocks that are kept when the last tensor in them is gone, up to 1 GB, because fresh
    pages cost more than most kernels. The system may take their pages back by itself when memory runs short; until then
    they count as the process's. Tensors that are in use are not touched.

    Returns:
        The bytes given back: 0 where nothing was kept, and where nothing ever is (PyTorch before 2.11, no compiled
        kernels, a system without `mmap`).
    """
    return 0 if registry.LOAD_ERROR else torch.ops.fastunlearn.empty_cache()
