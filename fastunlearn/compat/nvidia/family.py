"""What the two families of NVIDIA's have in common."""

from types import ModuleType

from .. import conv2d_gradfix
from ..dropin import Changes, DropIn
from . import bias_act, conv2d_resample, fma, grid_sample_gradfix, networks, upfirdn2d

MODULES = {
    f"torch_utils.ops.{module.__name__.rpartition('.')[2]}": module
    for module in (bias_act, conv2d_gradfix, conv2d_resample, fma, grid_sample_gradfix, upfirdn2d)
}


class NvidiaDropIn(DropIn):
    """A `DropIn` for a repository with ``torch_utils`` and networks that pickle their source.

    Args:
        name: of the family.
        modules: what it has besides the common ones, or otherwise than they are.
        networks: the modules that define a modulated_conv2d.
    """

    def __init__(self, name: str, modules: dict[str, object], networks_in: tuple[str, ...]):
        def persistence(module: ModuleType) -> Changes:
            return networks.exchanged_in_pickles(module, self)

        patches = dict.fromkeys(networks_in, networks.exchanged_networks)
        patches |= {"torch_utils.persistence": persistence, "torch.utils.data.sampler": _sampler_of_a_source}
        super().__init__(name, {**MODULES, **modules}, patches)


def _sampler_of_a_source(module: ModuleType) -> Changes:
    """Samplers were given their dataset; torch's took the argument away, and their training stops there."""

    def ignore(self, data_source=None):
        """There is nothing to do."""

    return {} if "__init__" in vars(module.Sampler) else {(module.Sampler, "__init__"): ignore}
