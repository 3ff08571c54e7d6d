"""The kernels of fastunlearn: one folder per op, with its contract, its reference and its notes."""

if __name__ == "kernels":
    raise ImportError("kernels: import fastunlearn.kernels; the top-level name belongs to another package")
