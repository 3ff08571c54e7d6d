"""StyleGAN2's modulated convolution, without per-sample weights."""
