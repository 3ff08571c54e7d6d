"""Drop-ins: code that carries its own copy of StyleGAN ops, or a package's Fréchet distance, runs on ours.

Each family is a module with ``install()``, ``uninstall()`` and the context manager ``installed()``, before or after the
foreign code is imported, and with the functions themselves under the family's names:

    from fastunlearn.compat import rosinality
    rosinality.install()

`python -m fastunlearn.compat FAMILY -- SCRIPT ARGUMENTS…` runs an untouched script so. `docs/compat.md` compares the
families.
"""

FAMILIES = (
    "cleanfid",
    "lucidrains",
    "pytorch_fid",
    "rosinality",
    "stylegan2_ada",
    "stylegan3",
    "torch_fidelity",
    "torchmetrics",
)
