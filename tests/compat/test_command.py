"""``python -m fastunlearn.compat FAMILY -- SCRIPT …`` as a person types it."""

import json
from pathlib import Path

import pytest

DOUBLES = Path(__file__).parent / "doubles"


def test_an_untouched_script(compat):
    """rosinality's train.py, whose ops fail to build and whose device is "cuda", from another folder."""
    script = Path("rosinality") / "train.py"
    done = compat("rosinality", "--", script, "data set", "--status", 3)
    assert done.returncode == 3, done.stderr
    assert "cuda" in done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert said["argv"] == [str(script), "data set", "--status", "3"]
    assert said["path"] == str(DOUBLES / "rosinality")
    assert said["device"] == "cpu"
    assert said["megabytes"] == 0
    assert said["image"] == [4, 192]
    assert said["loss"] > 0
    assert said["r1"] > 0


def test_a_module(compat, tmp_path):
    """-m, from the folder where it is typed, on the ops of stylegan3."""
    (tmp_path / "torch_utils" / "ops").mkdir(parents=True)
    (tmp_path / "torch_utils" / "ops" / "upfirdn2d.py").write_text("raise RuntimeError('not this one')")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()
    (tmp_path / "pkg" / "job.py").write_text(
        "import sys\n"
        "import torch\n"
        "from torch_utils.ops import upfirdn2d\n"
        "x = torch.ones(1, 1, 4, 4, device='cuda:0').cuda()\n"
        "y = upfirdn2d.upsample2d(x, upfirdn2d.setup_filter([1, 3, 3, 1], device=torch.device('cuda')))\n"
        "print(__name__, __package__, sys.argv[1:], sys.argv[0].endswith('job.py'), tuple(y.shape), y.device)\n"
    )
    done = compat("stylegan3", "--", "-m", "pkg.job", "--option", "-- 1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "__main__ pkg ['--option', '-- 1'] True (1, 1, 8, 8) cpu\n"


def test_a_script_that_fails(compat, tmp_path):
    """Its own traceback, its own status."""
    (tmp_path / "script.py").write_text("import op.upfirdn2d\nraise KeyError(__name__)\n")
    (tmp_path / "op").mkdir()
    (tmp_path / "op" / "upfirdn2d.py").write_text("raise RuntimeError('not this one')")
    done = compat("rosinality", "--", "script.py", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("KeyError: '__main__'\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stylegan4", "--", "train.py"], "stylegan4"),
        (["rosinality", "--", "nowhere.py"], "no such script: nowhere.py"),
        (["rosinality", "--"], "-- SCRIPT is missing"),
        (["rosinality"], "-- SCRIPT is missing"),
    ],
)
def test_errors_are_one_line(capsys, arguments, message):
    from fastunlearn.compat.__main__ import main

    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]
