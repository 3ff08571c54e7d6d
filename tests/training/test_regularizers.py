import torch
from torch import nn

from fastunlearn.training.losses import discriminator_loss, generator_loss
from fastunlearn.training.regularizers import PathLength, r1_penalty


class Quadratic(nn.Module):
    """D(x) = a/2·‖x‖², whose gradient is a·x."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))

    def forward(self, x):
        return self.a / 2 * x.flatten(1).square().sum(dim=1)


def test_r1_of_a_quadratic_discriminator():
    x = torch.randn(5, 1, 3, 3)
    d = Quadratic(3.0)
    penalty = r1_penalty(d, x)
    norm = x.flatten(1).square().sum(dim=1).mean()
    torch.testing.assert_close(penalty, 9 * norm)
    penalty.backward()
    torch.testing.assert_close(d.a.grad, 2 * 3.0 * norm)


class Linear(nn.Module):
    """A generator whose image is c times its style, for every layer's mean style."""

    n_styles = 2

    def __init__(self, c):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def mapping(self, z):
        return z + 0 * self.c

    def synthesis(self, styles):
        return (self.c * styles.mean(dim=1)).reshape(-1, 1, 2, 2)


def test_path_length_of_a_linear_generator():
    torch.manual_seed(0)
    regularizer = PathLength(decay=1.0)
    z = torch.randn(2000, 4)
    penalty = regularizer(Linear(6.0), z)
    # Jᵀy = c/2·y for either layer, y ~ N(0, 1/4) in 4 pixels: the mean over layers of ‖Jᵀy‖² is c²/4·‖y‖².
    expected = 3.0 * torch.distributions.Chi2(4).sample((200_000,)).sqrt().mean() / 2
    torch.testing.assert_close(regularizer.mean, expected, rtol=0.03, atol=0)
    assert 0 < penalty < expected**2
    penalty.backward()


def test_path_length_mean_moves_by_its_decay_and_is_state():
    torch.manual_seed(0)
    regularizer = PathLength(decay=0.25)
    regularizer.mean.fill_(8.0)
    regularizer(Linear(0.0), torch.randn(4, 4)).detach()
    torch.testing.assert_close(regularizer.mean, torch.tensor(6.0))
    assert list(regularizer.state_dict()) == ["mean"]


def test_losses_by_hand():
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 1.0])
    softplus = lambda v: torch.log1p(torch.exp(torch.tensor(v)))  # noqa: E731
    expected = (softplus(-1.0) + softplus(1.0)) / 2 + (softplus(0.0) + softplus(-2.0)) / 2
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    torch.testing.assert_close(generator_loss(fake), (softplus(1.0) + softplus(-1.0)) / 2)
