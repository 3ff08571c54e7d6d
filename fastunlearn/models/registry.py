"""Every architecture by its name in a bundle's config.yaml."""

from .lucidrains import Lucidrains, LucidrainsConfig
from .stylegan2 import StyleGAN2, StyleGAN2Config

Model = StyleGAN2 | Lucidrains
ARCHITECTURES = {
    StyleGAN2.arch: (StyleGAN2, StyleGAN2Config),
    Lucidrains.arch: (Lucidrains, LucidrainsConfig),
}
