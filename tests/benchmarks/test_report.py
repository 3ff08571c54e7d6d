"""benchmarks/report.py: from pytest-benchmark's JSON to what is kept and shown."""

import json
import sys

import pytest
import report
from PIL import Image


def case(name, device="cpu", flops=0.0, moved=8e6, **pages):
    measured = {
        key: {
            "seconds": {"reference": 0.004, "native": native},
            "ratio": 0.004 / native,
            "bytes": moved,
            "flops": flops,
            "copy_share": 0.5,
        }
        for key, native in pages.items()
    }
    return {"extra_info": {"case": name, "device": device, **measured}}


@pytest.fixture
def stored(tmp_path):
    headline = report.HEADLINES[0][0]
    step = case("a step", flops=2e9, moved=0, default_pages=0.001)
    step["extra_info"]["peak_bytes"] = {"reference": 3e6, "native": 1e6}
    two_threads = {"case": "a kernel", "device": "cpu", "threads": {"1": 0.002, "2": 0.001}}
    info = {
        "machine_info": {"node": "a-host-name", "cpu": {"brand_raw": "Some CPU", "family": 6}},
        "datetime": "2026-01-02T03:04:05",
        "benchmarks": [
            case(headline, default_pages=0.001, warm_pages=0.002),
            case("another", default_pages=0.004),
            case("on a card", device="cuda", device_memory=0.001),
            {"extra_info": {}},
            step,
            {"extra_info": {**two_threads, "controls": {"copy": {"1": 0.003, "2": 0.002}}, "waiting": "active"}},
        ],
        "limits": {"cpu": {"copy": 1.5e9}, "cuda": {"copy": 4e12}},
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(info))
    return path


def test_table_chart_and_what_is_kept(stored, tmp_path, monkeypatch, capsys):
    out, chart = tmp_path / "results", tmp_path / "chart.png"
    monkeypatch.setattr(sys, "argv", ["report.py", str(stored), "--out", str(out), "--chart", str(chart)])
    report.main()
    (kept,) = out.iterdir()
    assert kept.name == "some-cpu-family-6-one-thread.json"
    assert "a-host-name" not in kept.read_text()
    results = json.loads(kept.read_text())
    assert results["limits"] == {"copy": 1_500_000_000}
    assert results["two_threads"] == [
        {
            "case": "a kernel",
            "ms": {"1": 2.0, "2": 1.0},
            "controls": {"copy": {"1": 3.0, "2": 2.0}},
            "waiting": "active",
        }
    ]
    rows = results["rows"]
    assert rows[-1]["gigaflop"] == 2.0
    assert [(row["pages"], row["ms"]["native"]) for row in rows] == [
        ("plain allocator", 1.0),
        ("tuned allocator", 2.0),
        ("plain allocator", 4.0),
        ("plain allocator", 1.0),
    ]
    table = capsys.readouterr().out
    assert "| another | plain allocator | 4.000 | 1.0 | 8.0 | 50% |" in table
    assert "| a step | plain allocator | 1.000 | 4.0 |  |  |" in table
    assert "a step, memory at its peak: reference 3 MB, native 1 MB" in table
    assert "| case | 1 thread, ms | 2 threads, ms | times faster | … copy |" in table
    assert "| a kernel | 2.000 | 1.000 | 2.00 | 1.50 |" in table
    assert "OMP_WAIT_POLICY: active" in table
    assert "on a card" not in table
    with Image.open(chart) as picture:
        assert picture.width > 1000


def test_no_benchmark_on_the_device(stored, tmp_path, monkeypatch):
    info = json.loads(stored.read_text())
    info["benchmarks"] = info["benchmarks"][:2]
    stored.write_text(json.dumps(info))
    monkeypatch.setattr(sys, "argv", ["report.py", str(stored), "--out", str(tmp_path), "--device", "cuda"])
    with pytest.raises(SystemExit, match="no benchmark on cuda in it"):
        report.main()
