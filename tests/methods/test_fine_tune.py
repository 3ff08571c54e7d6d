import dataclasses
import json

import pytest
import torch

from fastunlearn.data import ImageDataset
from fastunlearn.errors import FastUnlearnError
from fastunlearn.feedback import Feedback, curated_feedback, generator_sha256
from fastunlearn.methods import FineTune, FineTuneConfig, unlearn
from fastunlearn.models.dcgan import DCGAN, DCGANConfig
from fastunlearn.models.vae import VAE, VAEConfig
from fastunlearn.training.loop import Images, LoopConfig, run

QUIET = LoopConfig(progress=False, grid_every=0, log_every=1, checkpoint_every=2)
SMALL = {"size": 8, "latent_dim": 3, "g_widths": (8,)}
SHORT = FineTuneConfig(steps=5, recipe={"batch_size": 4, "lr_decay": 0.5})


def vae():
    torch.manual_seed(0)
    return VAE(VAEConfig(**SMALL, e_widths=(8,)))


def dcgan():
    torch.manual_seed(0)
    return DCGAN(DCGANConfig(**SMALL, d_widths=(8,)))


def halves():
    """Class 0 is bright on the left, class 1 on the right."""
    bright = torch.randint(128, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    on_the_left = (torch.arange(8) < 4) == (labels == 0)[:, None, None, None]
    return ImageDataset(torch.where(on_the_left, bright, 0), labels, "halves")


def weights(model):
    return torch.cat([t.flatten().double() for m in model.modules().values() for t in m.state_dict().values()])


class KilledError(Exception):
    pass


class Dies(FineTune):
    """In its fourth step."""

    def phases(self, *arguments):
        phase = next(super().phases(*arguments))
        calls = []

        def batch(indices):
            calls.append(indices)
            if len(calls) == 4:
                raise KilledError
            return phase.data.batch(indices)

        yield dataclasses.replace(phase, data=Images(phase.data.n, batch))


@pytest.mark.parametrize("make", [vae, dcgan])
def test_resumes_bit_for_bit(make, tmp_path):
    model, feedback = make(), curated_feedback(halves(), 1)
    before = weights(model)
    whole = unlearn(model, FineTune(SHORT), feedback, tmp_path / "whole", QUIET)
    with pytest.raises(KilledError):
        run(Dies(SHORT).phases(model, feedback), tmp_path / "part", QUIET)
    resumed = unlearn(model, FineTune(SHORT), feedback, tmp_path / "part", QUIET)
    assert torch.equal(weights(whole), weights(resumed))
    assert not torch.equal(weights(whole), before)
    assert torch.equal(weights(model), before)
    assert not any(module.training for module in (whole.generator, whole.ema) if module is not None and make is vae)
    lines = [json.loads(line) for line in (tmp_path / "part/metrics.jsonl").read_text().splitlines()]
    assert {line["phase"] for line in lines} == {"fine-tune"}
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]


def test_other_feedback_is_another_run(tmp_path):
    unlearn(vae(), FineTune(SHORT), curated_feedback(halves(), 1), tmp_path, QUIET)
    with pytest.raises(FastUnlearnError, match="settings"):
        unlearn(vae(), FineTune(SHORT), curated_feedback(halves(), 0), tmp_path, QUIET)


@pytest.mark.parametrize("forget", [0, 1])
def test_a_vae_learns_what_is_desired(forget, tmp_path):
    """Of two kinds of images it is shown one, which it then codes better."""
    config = FineTuneConfig(steps=100, recipe={"batch_size": 16, "lr": 0.005})
    after = unlearn(vae(), FineTune(config), curated_feedback(halves(), forget), tmp_path, QUIET)
    error = (
        (after.generate(after.encode(halves().batch(slice(None)))) - halves().batch(slice(None))).abs().mean((1, 2, 3))
    )
    kept = halves().labels != forget
    assert error[kept].mean() < 0.7 * error[~kept].mean()


def test_the_data_are_the_desired_images():
    """Generated ones too: their latents make them again."""
    model = dcgan()
    z = model.sample_latents(6, torch.Generator().manual_seed(1))
    labels = torch.tensor([1, 0, 0, 1, 0, 0], dtype=torch.int8)
    feedback = Feedback(z, torch.arange(6), labels, None, generator_sha256(model), "person")
    phase = next(FineTune(SHORT).phases(model, feedback))
    assert (phase.data.n, phase.batch_size, phase.steps) == (4, 4, 5)
    assert torch.equal(phase.data.batch(torch.arange(4)), model.generate(z[labels == 0]))


def test_refusals(tmp_path):
    feedback = curated_feedback(halves(), 1)
    wrong = FineTune(FineTuneConfig(recipe={"likelyhood": "gaussian"}))
    with pytest.raises(FastUnlearnError, match="recipe: unknown key 'likelyhood', the nearest is 'likelihood'"):
        unlearn(vae(), wrong, feedback, tmp_path, QUIET)
    with pytest.raises(FastUnlearnError, match=r"recipe: lr must be in \[0, inf\], got -1"):
        unlearn(vae(), FineTune(FineTuneConfig(recipe={"lr": -1})), feedback, tmp_path, QUIET)
    with pytest.raises(FastUnlearnError, match="steps must be in"):
        FineTuneConfig(steps=-1)

    class Own(DCGAN):
        arch = "own"

    with pytest.raises(FastUnlearnError, match=r"continues the training of stylegan2, .*vae.*got own"):
        unlearn(Own(DCGANConfig(**SMALL, d_widths=(8,))), FineTune(), feedback, tmp_path, QUIET)
    assert not (tmp_path / "checkpoint.pt").exists()
