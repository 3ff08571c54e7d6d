"""NVIDIA's ``torch_utils.ops``, module by module, on our ops: what stylegan2-ada-pytorch and stylegan3 have in common.

``impl="ref"`` computes our reference in plain PyTorch; ``impl="cuda"``, the default, the fastest that we have for the
tensor's device.
"""
