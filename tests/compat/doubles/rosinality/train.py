"""Two steps on the card, as their script takes them, and a line of JSON about where it ran."""

import argparse
import json
import sys

import torch
from model import Discriminator, Generator
from op import conv2d_gradfix
from torch import autograd
from torch.nn import functional as F

device = "cuda"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--status", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(0)
    generator = Generator(8, 6, 2).to(device)
    discriminator = Discriminator(8).to(device)
    g_optim = torch.optim.Adam(generator.parameters(), lr=0.01)

    real = torch.rand(4, 3, 8, 8, device=device, requires_grad=True)
    with conv2d_gradfix.no_weight_gradients():
        (grad_real,) = autograd.grad(discriminator(real).sum(), real, create_graph=True)
    r1 = grad_real.pow(2).view(len(real), -1).sum(1).mean()
    r1.backward()

    fake, _ = generator([torch.randn(4, 6, device=device)])
    loss = F.softplus(-discriminator(fake)).mean()
    loss.backward()
    g_optim.step()
    torch.cuda.synchronize()
    said = {
        "argv": sys.argv,
        "path": sys.path[0],
        "loss": loss.item(),
        "r1": r1.item(),
        "image": list(fake.view(4, -1).shape),
        "device": str(fake.device),
        "megabytes": torch.cuda.max_memory_allocated() / 1e6,
    }
    print(json.dumps(said))
    sys.exit(args.status)


if __name__ == "__main__":
    main()
