import filecmp
import shutil

import pytest
import torch
import yaml

from fastunlearn.bundle import Bundle, load, save_bundle
from fastunlearn.delta import Snapshot, save_delta
from fastunlearn.feedback import generator_sha256


def failed(result):
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture(scope="module")
def forgotten(tmp_path_factory):
    """mnist32 with every weight moved a little, as an unlearned bundle."""
    folder = tmp_path_factory.mktemp("forgotten") / "bundle"
    model = load("mnist32")
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules().values():
            for p in module.parameters():
                p += 0.01 * p.abs().mean() * torch.randn_like(p)
    model.path_length_mean = 0.25
    facts = {"base": "mnist32", "base_sha256": generator_sha256(load("mnist32")), "forget": 8}
    save_bundle(model, folder, {"unlearned": facts})
    (folder / "card.md").write_text("Forgot the 8.\n")
    shutil.copy(Bundle("mnist32").folder / "classifier.safetensors", folder)
    return folder


def test_delta_then_apply_gives_the_same_folder(cli, forgotten, tmp_path):
    code, out, _ = cli("delta", "mnist32", forgotten, tmp_path / "8.delta")
    assert code == 0
    size = (tmp_path / "8.delta").stat().st_size
    assert f"{size / 1e6:.2f} MB" in out
    assert size < 0.75 * sum(path.stat().st_size for path in forgotten.iterdir())
    code, out, _ = cli("apply", "mnist32", tmp_path / "8.delta", tmp_path / "run/bundle")
    assert code == 0
    assert str(tmp_path / "run/bundle") in out
    names = sorted(path.name for path in forgotten.iterdir())
    assert sorted(path.name for path in (tmp_path / "run/bundle").iterdir()) == names
    assert filecmp.cmpfiles(forgotten, tmp_path / "run/bundle", names, shallow=False)[0] == names
    assert load(tmp_path / "run/bundle").path_length_mean == 0.25


def test_the_base_is_where_it_lies_here(cli, gan, tmp_path):
    mine, theirs, result = tmp_path / "mine", tmp_path / "theirs", tmp_path / "result"
    shutil.copytree(gan / "bundle", mine)
    shutil.copytree(gan / "bundle", theirs)
    facts = {"base": str(mine), "base_sha256": generator_sha256(load(mine)), "forget": 1}
    save_bundle(load(mine), result, {"unlearned": facts, "note": "blieb"})
    assert cli("delta", mine, result, tmp_path / "d")[0] == 0
    shutil.rmtree(mine)
    assert cli("apply", theirs, tmp_path / "d", tmp_path / "run/bundle")[0] == 0
    config = yaml.safe_load((tmp_path / "run/bundle/config.yaml").read_text())
    assert config["unlearned"] == {**facts, "base": str(theirs)}
    assert config["note"] == "blieb"
    judged = cli("evaluate", tmp_path / "run", "--n", 20, "--classifier", gan / "classifier.pt", "--no-progress")
    assert judged[0] == 0


def test_a_base_that_is_not_what_was_unlearned_from_leaves_the_facts_alone(cli, forgotten, tmp_path):
    facts = yaml.safe_load((forgotten / "config.yaml").read_text())["unlearned"]
    again = tmp_path / "again"
    model = load(forgotten)
    model.ema.constant.data += 1
    save_bundle(model, again, {"unlearned": {**facts, "base": "/elsewhere/mnist32"}})
    assert cli("delta", forgotten, again, tmp_path / "d")[0] == 0
    assert cli("apply", forgotten, tmp_path / "d", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/config.yaml").read_bytes() == (again / "config.yaml").read_bytes()


def test_refusals(cli, gan, forgotten, tmp_path):
    assert cli("delta", "mnist32", forgotten, tmp_path / "d")[0] == 0
    assert "is the difference to base" in failed(cli("apply", forgotten, tmp_path / "d", tmp_path / "out"))
    assert "no such bundle" in failed(cli("apply", "nowhere", tmp_path / "d", tmp_path / "out"))
    assert "no such delta file" in failed(cli("apply", "mnist32", tmp_path / "e", tmp_path / "out"))
    assert "must be as in the base" in failed(cli("delta", "mnist32", gan / "bundle", tmp_path / "e"))
    assert "unknown option" in failed(cli("apply", "mnist32", tmp_path / "d", tmp_path / "out", "--force"))
    assert not (tmp_path / "out").exists()
    assert "holds a bundle already" in failed(cli("apply", "mnist32", tmp_path / "d", forgotten))


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "config.yml"])
def test_a_delta_writes_only_the_files_of_a_bundle(cli, gan, tmp_path, name):
    base = Snapshot.of_bundle(Bundle(gan / "bundle"))
    save_delta(base, Snapshot(base.networks, {**base.files, name: b"x"}), tmp_path / "d")
    assert "not the delta of a bundle" in failed(cli("apply", gan / "bundle", tmp_path / "d", tmp_path / "a/b"))
    assert not (tmp_path / "a").exists()
