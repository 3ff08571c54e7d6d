"""benchmarks/roofline.py: floors by hand, and limits that are measured once."""

import json
import platform
import sys

import pytest
import roofline

RATES = {"copy": 10e9, "float32 matrix product": 100e9, "bfloat16 matrix product": 1e15}


def row(**counted):
    return {"case": "a case", "pages": "plain allocator", "ms": {"native": 8.0}, "megabytes": 0.0, **counted}


@pytest.mark.parametrize(
    ("counted", "milliseconds", "by"),
    [
        ({"megabytes": 10.0}, 1.0, "memory"),
        ({"megabytes": 10.0, "gigaflop": 0.05}, 1.0, "memory"),
        ({"megabytes": 10.0, "gigaflop": 0.4}, 4.0, "arithmetic"),
        ({"gigaflop": 0.4}, 4.0, "arithmetic"),
    ],
)
def test_floor(counted, milliseconds, by):
    least, set_by = roofline.floor(row(**counted), RATES)
    assert least == pytest.approx(milliseconds)
    assert set_by == by


def test_table():
    table = roofline.markdown([row(megabytes=10.0, gigaflop=0.4)], RATES)
    assert "| copy | 10 GB/s |" in table
    assert "| a case | plain allocator | 10.0 | 0.40 | 40.0 | 4.000 | arithmetic | 8.000 | 50% |" in table


@pytest.fixture
def stored(tmp_path):
    pages = {"seconds": {"reference": 0.02, "native": 0.008}, "bytes": 1e7, "flops": 4e8, "copy_share": 0.1}
    info = {
        "machine_info": {"node": platform.node()},
        "benchmarks": [{"extra_info": {"case": "a case", "device": "cpu", "default_pages": pages}}],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(info))
    return path


def run(monkeypatch, path):
    monkeypatch.setattr(sys, "argv", ["roofline.py", str(path)])
    roofline.main()


def test_limits_are_measured_once_and_kept(stored, monkeypatch, capsys):
    measured = []
    monkeypatch.setattr(roofline, "limits", lambda device: measured.append(device) or RATES)
    run(monkeypatch, stored)
    run(monkeypatch, stored)
    assert measured == ["cpu"]
    assert json.loads(stored.read_text())["limits"] == {"cpu": RATES}
    assert "| arithmetic | 8.000 | 50% |" in capsys.readouterr().out


def test_a_kept_file_is_only_read(tmp_path, monkeypatch, capsys):
    kept = tmp_path / "machine.json"
    kept.write_text(json.dumps({"rows": [row(megabytes=10.0)]}))
    with pytest.raises(SystemExit, match="written without limits"):
        run(monkeypatch, kept)
    kept.write_text(json.dumps({"rows": [row(megabytes=10.0)], "limits": RATES}))
    run(monkeypatch, kept)
    assert "| 1.000 | memory | 8.000 | 12% |" in capsys.readouterr().out


def test_another_machines_times_get_no_limits_of_this_one(stored, monkeypatch):
    info = json.loads(stored.read_text())
    info["machine_info"]["node"] = "elsewhere"
    stored.write_text(json.dumps(info))
    with pytest.raises(SystemExit, match="comes from another machine"):
        run(monkeypatch, stored)


def test_what_is_measured(monkeypatch):
    monkeypatch.setattr(roofline, "SIZES", {"cpu": (32, (1, 4, 8))})
    monkeypatch.setattr(roofline, "copy_rate", lambda device: 1e9)
    rates = roofline.limits("cpu")
    assert list(rates) == [
        "copy",
        "float32 matrix product",
        "float32 convolution, NCHW",
        "float32 convolution, channels_last",
    ]
    assert all(rate > 0 for rate in rates.values())
