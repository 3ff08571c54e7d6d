"""From the JSON of pytest-benchmark: a small file to keep, a table and a chart.

pytest benchmarks --benchmark-json build/bench.json
python benchmarks/roofline.py build/bench.json
python benchmarks/report.py build/bench.json --out benchmarks/results --chart docs/images/bench.png
"""

import argparse
import json
import platform
from pathlib import Path

import torch

# What the chart shows, of what was run: the case, the contender that our time is held against, the label.
HEADLINES = [
    ("StyleGAN2 64² training step, batch 2", "reference", "whole training step, StyleGAN2 64²"),
    ("StyleGAN2 64² training step, batch 2", "single-channel FIR", "… with rosinality's FIR filter"),
    ("StyleGAN2 64² adaptation step, batch 2", "reference", "… adaptation step"),
    ("StyleGAN2 64² unlearning step, batch 2", "reference", "… unlearning step"),
    ("modulated_conv2d fwd+bwd up 2 (8, 128, 32, 32)", "reference", "modulated_conv2d up 2, 8×128×32²"),
    ("upfirdn2d fwd+bwd up 2 (8, 128, 64, 64) contiguous", "reference", "upfirdn2d up 2, 8×128×64²"),
    ("upfirdn2d double-bwd up 2 (8, 128, 64, 64) contiguous", "reference", "… twice differentiated"),
    ("upfirdn2d fwd+bwd up 2 (4, 32, 256, 256) contiguous", "reference", "upfirdn2d up 2, 4×32×256²"),
    (
        "styled_epilogue fwd+bwd blur (8, 128, 64, 64) contiguous",
        "reference",
        "styled_epilogue with filter, 8×128×64²",
    ),
    ("styled_epilogue fwd+bwd no filter (8, 128, 64, 64) contiguous", "reference", "… without"),
    ("ms_ssim fwd+bwd (8, 3, 256, 256)", "pytorch-msssim", "ms_ssim, 8×3×256², × pytorch-msssim"),
    ("bias_act fwd+bwd (8, 128, 64, 64) contiguous", "reference", "bias_act, 8×128×64²"),
    ("bias_act double-bwd (8, 128, 64, 64)", "reference", "… twice differentiated"),
    ("bias_act fwd+bwd (4, 32, 256, 256) contiguous", "reference", "bias_act, 4×32×256²"),
    ("bias_act fwd+bwd (4, 32, 256, 256) channels_last", "reference", "bias_act, 4×32×256², channels_last"),
    ("ewc_penalty value+grad, 25 M in 110 tensors", "reference", "ewc_penalty, 25 M"),
    ("parameter_repulsion nl2 value+grad, 25 M in 110 tensors", "reference", "parameter_repulsion nl2, 25 M"),
    ("parameter_repulsion el2 value+grad, 25 M in 110 tensors", "reference", "parameter_repulsion el2, 25 M"),
    ("ema_update, 25 M in 110 tensors", "reference", "ema_update, 25 M"),
    ("fisher_accumulate, 25 M in 110 tensors", "reference", "fisher_accumulate, 25 M"),
    ("latent_projection (10000, 512)", "reference", "latent_projection, 10,000 × 512"),
]
PAGES = {"default_pages": "plain allocator", "warm_pages": "tuned allocator", "device_memory": "device memory"}


def machine(device: str, info: dict) -> dict[str, str]:
    """What the numbers depend on, without the machine's name."""
    if device == "cuda":
        what, runtime = torch.cuda.get_device_name(), {"cuda": torch.version.cuda}
    else:
        cpu = info["machine_info"]["cpu"]
        what = f"{cpu.get('brand_raw', platform.machine())}, family {cpu.get('family', '?')}, one thread"
        runtime = {}
    return {"machine": what, "torch": torch.__version__, **runtime, "date": info["datetime"][:10]}


def rows_of(info: dict, device: str) -> list[dict]:
    """One row a case and allocator: milliseconds of each contender, megabytes moved, their share of the copy bandwidth
    and, where counted, operations and peak memory.
    """
    rows = []
    for benchmark in info["benchmarks"]:
        extra = benchmark["extra_info"]
        if extra.get("device") != device:
            continue
        for key, pages in PAGES.items():
            if key in extra:
                measured = extra[key]
                row = {
                    "case": extra["case"],
                    "pages": pages,
                    "ms": {name: round(1e3 * s, 5) for name, s in measured["seconds"].items()},
                    "megabytes": round(measured["bytes"] / 1e6, 3),
                    "copy_share": round(measured["copy_share"], 3),
                }
                if measured["flops"]:
                    row["gigaflop"] = round(measured["flops"] / 1e9, 6)
                if "peak_bytes" in extra:
                    row["peak_megabytes"] = {name: round(b / 1e6, 1) for name, b in extra["peak_bytes"].items()}
                rows.append(row)
    return rows


def times_faster(row: dict, than: str = "reference") -> float:
    """How many times faster the kernel is than another contender."""
    return row["ms"][than] / row["ms"]["native"]


def markdown(rows: list[dict]) -> str:
    """All rows as a table."""
    others = sorted({name for row in rows for name in row["ms"]} - {"native", "reference"})
    head = ["case", "memory", "native, ms", "× eager", *(f"× {name}" for name in others), "MB", "of copy"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["case"], row["pages"], f"{row['ms']['native']:.3f}", f"{times_faster(row):.1f}"]
        cells += [f"{times_faster(row, name):.2f}" if name in row["ms"] else "" for name in others]
        cells += [f"{row['megabytes']:.1f}", f"{row['copy_share']:.0%}"] if row["megabytes"] else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    for case, peaks in {row["case"]: row["peak_megabytes"] for row in rows if "peak_megabytes" in row}.items():
        described = ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items())
        lines += ["", f"{case}, memory at its peak: {described}"]
    return "\n".join(lines) + "\n"


def scaling(info: dict, device: str) -> list[dict]:
    """What `bench_threads.py` measured: milliseconds by number of threads, of a case and of what shows the machine."""

    def milliseconds(seconds):
        return {threads: round(1e3 * s, 5) for threads, s in seconds.items()}

    extras = [benchmark["extra_info"] for benchmark in info["benchmarks"]]
    return [
        {
            "case": extra["case"],
            "ms": milliseconds(extra["threads"]),
            "controls": {name: milliseconds(seconds) for name, seconds in extra["controls"].items()},
            "waiting": extra["waiting"],
        }
        for extra in extras
        if extra.get("device") == device and "threads" in extra
    ]


def scaling_markdown(rows: list[dict]) -> str:
    """The same as a table; beside each case, how many times faster the controls were in the same turns."""
    controls = list(rows[0]["controls"])
    head = ["case", "1 thread, ms", "2 threads, ms", "times faster", *(f"… {name}" for name in controls)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        one, two = row["ms"].values()
        ratios = (one / two for one, two in (row["controls"][name].values() for name in controls))
        cells = [row["case"], f"{one:.3f}", f"{two:.3f}", f"{one / two:.2f}", *(f"{ratio:.2f}" for ratio in ratios)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\nOMP_WAIT_POLICY: {rows[0]['waiting']}\n"


def chart(rows: list[dict], about: dict[str, str], path: Path) -> None:
    """How many times faster than eager PyTorch, headline by headline."""
    from fastunlearn.evaluation.style import AFTER, BEFORE, INK, LINE, new_figure, quiet, save_figure

    by_case = {(row["case"], row["pages"]): row for row in rows}
    kinds = [pages for pages in PAGES.values() if any(row["pages"] == pages for row in rows)]
    shown = [
        (case, than, label)
        for case, than, label in HEADLINES
        if all(than in by_case.get((case, pages), {"ms": ()})["ms"] for pages in kinds)
    ]
    if not shown:
        return
    figure = new_figure("Forward and backward, times faster than eager PyTorch", 9, 1.4 + 0.42 * len(shown))
    ax = figure.add_subplot()
    quiet(ax)
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", color=LINE, linewidth=0.6)
    height, most = 0.8 / len(kinds), 1.0
    for k, pages in enumerate(kinds):
        for y, (case, than, _) in enumerate(shown):
            row = by_case[case, pages]
            bar = {"color": BEFORE if k == 0 and len(kinds) > 1 else AFTER, "label": pages if y == 0 else None}
            where, factor = y - 0.4 + (k + 0.5) * height, times_faster(row, than)
            most = max(most, factor)
            ax.barh(where, factor, 0.9 * height, **bar)
            note = f"{factor:.1f}×" + (f", {row['copy_share']:.0%} of copy" if row["megabytes"] else "")
            ax.annotate(note, (factor, where), (4, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
    ax.set_yticks(range(len(shown)), [label for _, _, label in shown])
    ax.invert_yaxis()
    ax.axvline(1, color=INK, linewidth=0.8)
    ax.set_xscale("log")
    ax.set_xlim(0.8, 2.6 * most)
    ax.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    ax.minorticks_off()
    ax.set_xlabel(f"{about['machine']}, torch {about['torch']}, {about['date']}", color=INK)
    figure.legend(loc="outside lower right", ncols=len(kinds), frameon=False, fontsize=9, labelcolor=INK)
    save_figure(figure, path)


def main() -> None:
    """Write <out>/<machine>.json and, where asked, the chart; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="+", help="from pytest --benchmark-json; a later file's cases win")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results to keep")
    parser.add_argument("--chart", type=Path, help="PNG to draw")
    options = parser.parse_args()
    cases, limits, threads = {}, {}, []
    for path in options.json:
        if path.exists():  # a step that was killed has written none
            info = json.loads(path.read_text())
            cases |= {(row["case"], row["pages"]): row for row in rows_of(info, options.device)}
            limits |= info.get("limits", {}).get(options.device, {})
            threads += scaling(info, options.device)
    rows = list(cases.values())
    if not rows:
        raise SystemExit(f"{' '.join(map(str, options.json))}: no benchmark on {options.device} in it")
    about = machine(options.device, info)
    kept = {**about, "rows": rows}
    if limits:
        kept["limits"] = {what: round(rate) for what, rate in limits.items()}
    if threads:
        kept["two_threads"] = threads
    name = "-".join(about["machine"].replace(",", "").lower().split())
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    print(markdown(rows))
    if threads:
        print(scaling_markdown(threads))
    if options.chart:
        chart(rows, about, options.chart)
        print(options.chart)
    print(options.out / f"{name}.json")


if __name__ == "__main__":
    main()
