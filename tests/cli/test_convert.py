import pytest
import torch

from fastunlearn.bundle import load, save_bundle
from fastunlearn.files import state_sha256
from fastunlearn.models.checkpoints import load_checkpoint, save_checkpoint
from fastunlearn.models.dcgan import DCGAN, DCGANConfig
from fastunlearn.models.lucidrains import Lucidrains, LucidrainsConfig
from fastunlearn.models.stylegan2 import StyleGAN2, StyleGAN2Config
from fastunlearn.models.vae import VAE, VAEConfig

SHORT = ("--n-feedback", 40, "--min-undesired", 3, "--n-adapted", 1, "--adapt-steps", 1, "--unlearn-steps", 1)
SHORT = (*SHORT, "--repulsion", "nl2", "--gamma", 0.01, "--batch-size", 4, "--no-progress")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """rosinality's file of an untrained model of 8 px in colour, with optimisers and a mean style."""
    torch.manual_seed(0)
    sizes = {"size": 8, "channels": 3, "latent_dim": 4, "style_dim": 4, "mapping_layers": 1}
    model = StyleGAN2(StyleGAN2Config(**sizes, g_widths=(4, 4), d_widths=(4, 4)))
    model.ema.set_constants({"mean_style": torch.randn(4)})
    path = tmp_path_factory.mktemp("checkpoint") / "000020.pt"
    save_checkpoint(model, path, "rosinality")
    torch.save({**torch.load(path, weights_only=True), "g_optim": {"state": {}}, "d_optim": {}}, path)
    return path


def error_line(result):
    code, _, err = result
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_convert_to_a_bundle_and_back(checkpoint, cli, tmp_path):
    code, out, _ = cli("convert", checkpoint, tmp_path / "bundle")
    assert code == 0
    assert "rosinality, left out: g_optim, d_optim" in out
    assert "bundle, generator, generator_ema, discriminator, mean style, fixed noise" in out
    text = (tmp_path / "bundle/config.yaml").read_text()
    assert "step: 20" in text
    assert "file: 000020.pt" in text
    assert cli("convert", tmp_path / "bundle", tmp_path / "back.pt")[0] == 0
    before, after = (torch.load(path, weights_only=True) for path in (checkpoint, tmp_path / "back.pt"))
    for key in ("g", "g_ema", "d"):
        assert state_sha256(before[key]) == state_sha256(after[key])
    assert torch.equal(before["latent_avg"], after["latent_avg"])
    assert cli("convert", checkpoint, tmp_path / "n.pt", "--format", "nvidia")[0] == 0
    assert load_checkpoint(tmp_path / "n.pt").format == "nvidia"


def test_inspect_a_checkpoint_and_its_bundle(checkpoint, cli, tmp_path):
    cli("convert", checkpoint, tmp_path / "bundle")
    seen = {}
    for path in (checkpoint, tmp_path / "bundle"):
        code, out, _ = cli("inspect", path)
        assert code == 0
        seen[path] = dict(line.split("  ", 1) for line in out.splitlines())
        facts = {key: value.strip() for key, value in seen[path].items()}
        assert facts["images"] == "3 x 8 x 8"
        assert facts["generator widths"] == "4: 4, 8: 4"
        assert facts["step"] == "20"
        assert facts["mean style"] == "generator_ema"
        assert facts["fixed noise"] == "generator, generator_ema"
        assert facts["discriminator sha256"] == state_sha256(load(checkpoint).discriminator.state_dict())
    assert len(seen[checkpoint]["file sha256"].strip()) == 64
    assert "file sha256" not in seen[tmp_path / "bundle"]


def test_lucidrains_checkpoint_goes_in_and_out(cli, tmp_path):
    torch.manual_seed(0)
    model = Lucidrains(LucidrainsConfig(size=16, latent_dim=6, mapping_layers=2, capacity=2))
    save_checkpoint(model, tmp_path / "model_3.pt", "lucidrains")
    assert cli("convert", tmp_path / "model_3.pt", tmp_path / "bundle")[0] == 0
    assert cli("convert", tmp_path / "bundle", tmp_path / "again.pt")[0] == 0  # its own format, not rosinality's
    first, again = (torch.load(tmp_path / name, weights_only=True)["GAN"] for name in ("model_3.pt", "again.pt"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    code, out, _ = cli("inspect", tmp_path / "again.pt")
    assert code == 0
    facts = {key: value.strip() for key, value in (line.split("  ", 1) for line in out.splitlines())}
    assert (facts["format"], facts["architecture"], facts["capacity"]) == ("lucidrains", "lucidrains", "2")
    assert cli("sample", "--gan", tmp_path / "again.pt", "--n", 2, "--out", tmp_path / "s")[0] == 0
    line = error_line(cli("convert", tmp_path / "bundle", tmp_path / "x.pt", "--format", "nvidia"))
    assert "nvidia's checkpoints hold a stylegan2, no lucidrains" in line


def test_a_delta_keeps_mean_style_and_noise(checkpoint, cli, tmp_path):
    cli("convert", checkpoint, tmp_path / "base")
    model = load(checkpoint)
    with torch.no_grad():
        model.ema.constant += 0.5
    save_bundle(model, tmp_path / "result", {})
    assert cli("delta", tmp_path / "base", tmp_path / "result", tmp_path / "d")[0] == 0
    assert cli("apply", tmp_path / "base", tmp_path / "d", tmp_path / "applied")[0] == 0
    applied = load(tmp_path / "applied")
    assert torch.equal(applied.ema.mean_style, model.ema.mean_style)
    assert torch.equal(applied.ema.fixed_noise[1], model.ema.fixed_noise[1])
    assert torch.equal(applied.ema.constant, model.ema.constant)


def test_sample_and_unlearn_from_a_file(checkpoint, gan, cli, tmp_path):
    assert cli("sample", "--gan", checkpoint, "--n", 3, "--truncation", 0.5, "--out", tmp_path / "s")[0] == 0
    start = ("unlearn", "adapt-then-unlearn", "--gan", checkpoint, "--forget", 1, "--out", tmp_path / "run", *SHORT)
    assert "a checkpoint has no classifier; give --classifier, or to unlearn --feedback" in error_line(cli(*start))
    assert not (tmp_path / "run").exists()
    from fastunlearn.feedback import Feedback, generator_sha256

    model, n = load(checkpoint), 40
    z, label = model.sample_latents(n), torch.tensor([0, 1] * 20, dtype=torch.int8)
    feedback = Feedback(z, torch.arange(n), label, None, generator_sha256(model), "person")
    feedback.save(tmp_path / "f.safetensors")
    assert cli(*start, "--feedback", tmp_path / "f.safetensors")[0] == 0
    after = load(tmp_path / "run/bundle")
    assert not torch.equal(after.ema.constant, model.ema.constant)
    assert after.ema.mean_style is None
    assert torch.equal(after.ema.fixed_noise[2], model.ema.fixed_noise[2])
    assert "give --classifier" in error_line(cli("evaluate", tmp_path / "run", "--n", 20))


def test_unlearning_without_a_discriminator(checkpoint, cli, tmp_path):
    from fastunlearn.feedback import Feedback, generator_sha256

    contents = torch.load(checkpoint, weights_only=True)
    torch.save({"g_ema": contents["g_ema"]}, tmp_path / "x.pt")
    model = load(tmp_path / "x.pt")
    label = torch.tensor([0, 1] * 5, dtype=torch.int8)
    feedback = Feedback(model.sample_latents(10), torch.arange(10), label, None, generator_sha256(model), "person")
    feedback.save(tmp_path / "f.safetensors")
    assert cli("sample", "--gan", tmp_path / "x.pt", "--n", 2, "--out", tmp_path / "s")[0] == 0
    start = ("unlearn", "adapt-then-unlearn", "--gan", tmp_path / "x.pt", "--forget", 1, "--out", tmp_path / "run")
    line = error_line(cli(*start, *SHORT, "--feedback", tmp_path / "f.safetensors"))
    assert "needs a discriminator, and the model has none" in line
    code, out, _ = cli("convert", tmp_path / "x.pt", tmp_path / "b")
    assert code == 0
    assert "has no generator (a copy of the other one), no discriminator" in out
    assert "discriminator" not in cli("inspect", tmp_path / "b")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.pt", "OUT/b"), "nowhere.pt: no such bundle"),
        (("IN", "OUT"), "exists already"),
        (("IN", "OUT/x.pkl"), "pickles are not written; give OUT.pt and --format nvidia"),
        (("IN", "OUT/x", "--format", "keras"), "--format must be one of bundle, rosinality, nvidia"),
        (("mnist32", "OUT/x.pt"), "only networks with channels = 3, and this model has 1"),
    ],
)
def test_conversions_that_cannot_be(checkpoint, cli, tmp_path, arguments, message):
    places = {"IN": str(checkpoint), "OUT": str(tmp_path)}
    arguments = [places.get(a, a.replace("OUT/", f"{tmp_path}/")) for a in arguments]
    assert message in error_line(cli("convert", *arguments))
    assert not list(tmp_path.iterdir())


def test_inspect_something_else(cli, tmp_path):
    (tmp_path / "x.pt").write_text("hello")
    assert "is not a checkpoint" in error_line(cli("inspect", tmp_path / "x.pt"))
    save_bundle(StyleGAN2(StyleGAN2Config(size=8, g_widths=(2, 2), d_widths=(2, 2))), tmp_path / "b", {})
    (tmp_path / "b/constants.safetensors").write_text("hello")
    assert "not a readable safetensors file" in error_line(cli("inspect", tmp_path / "b"))


@pytest.mark.parametrize(
    ("model", "lines"),
    [
        (
            VAE(VAEConfig(size=8, latent_dim=4, g_widths=(5,), e_widths=(6,))),
            ("encoder widths        4: 6", "encoder sha256"),
        ),
        (
            DCGAN(DCGANConfig(size=8, latent_dim=4, g_widths=(5,), d_widths=(6,))),
            ("discriminator widths  4: 6", "d norm"),
        ),
    ],
    ids=["vae", "dcgan"],
)
def test_architectures_that_no_other_project_has(cli, tmp_path, model, lines):
    save_bundle(model, tmp_path / "b", {})
    code, out, _ = cli("inspect", tmp_path / "b")
    assert code == 0
    for line in (f"architecture          {model.arch}", "generator widths      4: 5", *lines):
        assert f"\n{line}" in out
    assert "no other project's format holds" in error_line(cli("convert", tmp_path / "b", tmp_path / "x.pt"))
    line = error_line(cli("convert", tmp_path / "b", tmp_path / "x.pt", "--format", "nvidia"))
    assert f"nvidia's checkpoints hold a stylegan2, no {model.arch}" in line
    assert not (tmp_path / "x.pt").exists()
    assert cli("convert", tmp_path / "b", tmp_path / "copy")[0] == 0
    for name, module in model.modules().items():
        assert state_sha256(load(tmp_path / "copy").modules()[name].state_dict()) == state_sha256(module.state_dict())
