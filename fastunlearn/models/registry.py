"""Every architecture by its name in a bundle's config.yaml."""

from .dcgan import DCGAN, DCGANConfig
from .lucidrains import Lucidrains, LucidrainsConfig
from .proggan import ProgGAN, ProgGANConfig
from .stylegan2 import StyleGAN2, StyleGAN2Config
from .vae import VAE, VAEConfig
from .vdvae import VDVAE, VDVAEConfig

Model = StyleGAN2 | Lucidrains | DCGAN | ProgGAN | VAE | VDVAE
ARCHITECTURES = {
    StyleGAN2.arch: (StyleGAN2, StyleGAN2Config),
    Lucidrains.arch: (Lucidrains, LucidrainsConfig),
    DCGAN.arch: (DCGAN, DCGANConfig),
    ProgGAN.arch: (ProgGAN, ProgGANConfig),
    VAE.arch: (VAE, VAEConfig),
    VDVAE.arch: (VDVAE, VDVAEConfig),
}
