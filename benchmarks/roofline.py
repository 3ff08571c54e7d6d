"""What this machine allows at most, and how near each benchmark comes to it.

    floor = max(bytes / copy bandwidth, operations / arithmetic rate)

pytest benchmarks --benchmark-json build/bench.json
python benchmarks/roofline.py build/bench.json [--device cuda]

Bandwidth and rates are measured here, on one thread or one GPU, and kept in the file, beside the times they belong to;
a file that has them, such as one in benchmarks/results, is only read. Bytes and operations are those that the op
needs, whatever a kernel does on top. Small data stays in the caches, which are faster than the copy of a large array:
there the share may exceed 100%.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path

import report
import torch
import torch.nn.functional as F
from measure import copy_rate, medians
from torch import Tensor

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# Side of the matrices; images, channels and side of the convolution. On a GPU large enough to fill it.
SIZES = {"cpu": (1024, (8, 256, 32)), "cuda": (8192, (32, 256, 128))}


def limits(device: str) -> dict[str, float]:
    """Bytes a second copied ("copy"), and operations a second of each dense arithmetic that PyTorch offers here.

    A floor is of float32 and by the best of "float32 …": lower precision is another result.
    """
    side, (n, c, h) = SIZES[device]
    a, b = torch.randn(2, side, side, device=device)
    rates = {"copy": copy_rate(device), "float32 matrix product": _rate(torch.mm, [a, b], 2 * side**3, device)}
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        for name, memory_format in FORMATS.items():
            x = torch.randn(n, c, h, h, device=device).contiguous(memory_format=memory_format)
            weight = torch.randn(c, c, 3, 3, device=device).contiguous(memory_format=memory_format)
            operations = 2 * x.numel() * c * 9
            rates[f"float32 convolution, {name}"] = _rate(_conv, [x, weight], operations, device)
    if device == "cuda":
        rates["bfloat16 matrix product"] = _rate(torch.mm, [a.bfloat16(), b.bfloat16()], 2 * side**3, device)
        torch.set_float32_matmul_precision("high")
        rates["tf32 matrix product"] = _rate(torch.mm, [a, b], 2 * side**3, device)
        torch.set_float32_matmul_precision("highest")
    return rates


def _conv(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x, weight, padding=1)


def _rate(function: Callable, inputs: list[Tensor], operations: int, device: str) -> float:
    return operations / medians({"": lambda: function(*inputs)}, device)[""]


def floor(row: dict, rates: dict[str, float]) -> tuple[float, str]:
    """The least time of a case in milliseconds, and what sets it."""
    arithmetic = max(rate for name, rate in rates.items() if name.startswith("float32"))
    by_memory = 1e9 * row["megabytes"] / rates["copy"]
    by_arithmetic = 1e12 * row.get("gigaflop", 0.0) / arithmetic
    return (by_memory, "memory") if by_memory >= by_arithmetic else (by_arithmetic, "arithmetic")


def markdown(rows: list[dict], rates: dict[str, float]) -> str:
    """The limits, and every case beside its floor."""
    lines = ["| limit | |", "|---|---|"]
    for name, rate in rates.items():
        lines.append(f"| {name} | {rate / 1e9:.0f} {'GB/s' if name == 'copy' else 'GFLOP/s'} |")
    head = ["case", "memory", "MB", "GFLOP", "FLOP/B", "floor, ms", "set by", "measured, ms", "share"]
    lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        least, by = floor(row, rates)
        megabytes, gigaflop, measured = row["megabytes"], row.get("gigaflop", 0.0), row["ms"]["native"]
        cells = [row["case"], row["pages"]]
        cells.append(f"{megabytes:.1f}" if megabytes else "")
        cells.append(f"{gigaflop:.2f}" if gigaflop else "")
        cells.append(f"{1e3 * gigaflop / megabytes:.1f}" if megabytes and gigaflop else "")
        cells += [f"{least:.3f}", by, f"{measured:.3f}", f"{least / measured:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def read(path: Path, device: str) -> tuple[list[dict], dict[str, float]]:
    """The cases of a file, and the limits, which are measured and added to it where pytest has just written it."""
    info = json.loads(path.read_text())
    if "rows" in info:  # kept by report.py
        if "limits" not in info:
            raise SystemExit(f"{path}: was written without limits")
        return info["rows"], info["limits"]
    found = info.setdefault("limits", {})
    if device not in found:
        if info["machine_info"]["node"] != platform.node():
            raise SystemExit(f"{path}: comes from another machine, whose limits are not in it")
        torch.set_num_threads(1)
        found[device] = limits(device)
        path.write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    return report.rows_of(info, device), found[device]


def main() -> None:
    """Print the limits and every case beside its floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, help="from pytest --benchmark-json, or what report.py made of it")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    print(markdown(*read(options.json, options.device)))


if __name__ == "__main__":
    main()
