"""How each architecture is trained from scratch: the settings of its loss, and the phase that minimises it."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from ..models.dcgan import DCGAN
from ..models.proggan import ProgGAN
from ..models.protocol import GenerativeModel
from ..models.stylegan2 import StyleGAN2
from ..models.vae import VAE
from ..models.vdvae import VDVAE
from .adversarial import AdversarialConfig, Networks, adversarial_phase
from .loop import Images, Phase
from .progressive import ProgressiveConfig, progressive
from .scoring import ModelScorer
from .variational import HierarchicalConfig, VariationalConfig, hierarchical_phase, variational_phase

Phases = Generator[Phase, None, GenerativeModel]


@dataclass(frozen=True, kw_only=True)
class DCGANGame(AdversarialConfig):
    """The game's settings with a DCGAN's defaults: no styles, hence no path length and no mixing."""

    batch_size: int = 64
    r1: float = 1.0
    path: float = 0.0
    mixing: float = 0.0


def adversarial(
    model: GenerativeModel, images: Images, steps: int, config: AdversarialConfig, scorer: ModelScorer | None = None
) -> Phases:
    """The one phase of a GAN."""
    networks = Networks(model, model.generator)
    score = scorer and scorer.score(lambda: networks.model)
    yield adversarial_phase("pretrain", networks, images, steps, config, score=score)
    return networks.model


def variational(
    model: VAE | VDVAE,
    images: Images,
    steps: int,
    config: VariationalConfig | HierarchicalConfig,
    scorer: ModelScorer | None = None,
) -> Phases:
    """The one phase of a VAE or a VDVAE."""
    phase = hierarchical_phase if isinstance(model, VDVAE) else variational_phase
    yield phase("pretrain", model, images, steps, config, score=scorer and scorer.score(lambda: model))
    for module in model.modules().values():
        module.eval()
    return model


PRETRAINING: dict[str, tuple[type, Callable[..., Phases]]] = {
    StyleGAN2.arch: (AdversarialConfig, adversarial),
    DCGAN.arch: (DCGANGame, adversarial),
    ProgGAN.arch: (ProgressiveConfig, progressive),
    VAE.arch: (VariationalConfig, variational),
    VDVAE.arch: (HierarchicalConfig, variational),
}
"""Settings and phases by architecture; `models.registry.ARCHITECTURES` has the networks and their sizes."""
