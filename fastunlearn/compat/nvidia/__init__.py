"""NVIDIA's ``torch_utils.ops``, module by module, on our ops: what stylegan2-ada-pytorch and stylegan3 have in common.

Everywhere ``impl="ref"`` computes our reference in plain PyTorch and ``impl="cuda"``, the default, the fastest we have for
the tensor's device, as the names do there.
"""
