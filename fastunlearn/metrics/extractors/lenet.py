"""The digits' features: LeNet's 84 activations before its last layer."""

from ...files import state_sha256
from ...models.lenet import LeNet
from .extractor import ModuleExtractor
from .resize import AS_IS


def lenet_extractor(lenet: LeNet) -> ModuleExtractor:
    """A LeNet as an extractor of images of 32 × 32 pixels, which it does not resize.

    Its hash is the `classifier_sha256` of the digit statistics that it made.
    """
    return ModuleExtractor(
        name="lenet",  # of every bundle's; which one its hash says
        module=lenet,
        function=lenet.features,
        rule=AS_IS,
        sha256=state_sha256(lenet.state_dict()),
        channels=lenet.in_channels,
        d=84,
        head=lenet.head,
    )


def digits() -> ModuleExtractor:
    """The classifier of the shipped bundle `mnist32`."""
    from ...bundle import Bundle  # which needs the metrics

    return lenet_extractor(LeNet.load(Bundle("mnist32").classifier))
