"""``lucidrains_training.py IMAGES``: a few steps with their Trainer, a checkpoint, and images from it."""

import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    from stylegan2_pytorch import Trainer

    torch.manual_seed(0)
    options = {
        "image_size": 32,
        "network_capacity": 4,
        "batch_size": 2,
        "gradient_accumulate_every": 1,
        "num_image_tiles": 2,
        "save_every": 3,
        "evaluate_every": 100,
    }
    trainer = Trainer("steps", **options)
    trainer.set_data_src(sys.argv[1])
    for _ in range(3):
        trainer.train()
    trainer.save(0)
    trainer.evaluate(0, 2)
    assert list(Path("models/steps").glob("model_*.pt"))
    print("losses", trainer.d_loss, trainer.g_loss)
