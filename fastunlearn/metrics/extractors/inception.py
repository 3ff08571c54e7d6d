"""InceptionV3 as published FIDs use it: torch-fidelity's port of TensorFlow's network of 2015."""

import pickle
import urllib.error
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from ...data import to_uint8
from ...errors import FastUnlearnError
from ...files import state_sha256
from .extractor import ModuleExtractor
from .resize import Resize

# It is part of torch-fidelity's network, which takes bytes.
TENSORFLOW = Resize("bilinear 299x299 as TensorFlow 1, not antialiased", lambda images: images)


def inception() -> ModuleExtractor:
    """2048 features and 1008 logits without bias: what "FID" means without further words.

    The weights (91 MB) are downloaded once, into torch's folder for such files (`TORCH_HOME`), and checked against the
    hash in their name. Images are rounded to bytes, as if they had been saved.

    Raises:
        FastUnlearnError: torch-fidelity is not here or does not import, or the weights cannot be downloaded or read.

    Source:
        Heusel et al. 2017, arXiv 1706.08500; Szegedy et al. 2015, arXiv 1512.00567.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise FastUnlearnError(
            f"inception: needs torch-fidelity ({error}); pip install torch-fidelity, or without a network use "
            "the extractor efficientnet-lite0"
        ) from error
    except RuntimeError as error:  # torchvision beside another torch: its ops do not register
        raise FastUnlearnError(
            f"inception: torch-fidelity does not import ({error}); `fastunlearn doctor` has the fix"
        ) from error
    _fetch(URL_INCEPTION_V3)
    net = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])

    return ModuleExtractor(
        name="inception",
        module=net,
        function=lambda images: net(to_uint8(images))[0],
        rule=TENSORFLOW,
        sha256=state_sha256(net.state_dict()),
        channels=3,
        standard=True,
        d=2048,
        package=f"torch-fidelity {version('torch-fidelity')}",
        head=lambda features: features @ net.fc.weight.T,
    )


def _fetch(url: str) -> dict[str, Tensor]:
    """Download the weights if they are not here, and see that they are tensors alone: torch-fidelity runs pickles."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (urllib.error.URLError, TimeoutError) as error:
        raise FastUnlearnError(
            f"inception: its weights cannot be downloaded ({getattr(error, 'reason', error)}); put {url} into "
            f"{file.parent}, or use the extractor efficientnet-lite0, which needs no network"
        ) from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise FastUnlearnError(f"{file}: truncated or not InceptionV3's weights; delete it ({error})") from error
