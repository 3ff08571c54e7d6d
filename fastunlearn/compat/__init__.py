"""Drop-ins: code that carries its own copy of StyleGAN ops runs on ours.

Each family is a module with ``install()``, ``uninstall()`` and the context manager ``installed()``, before or after the
foreign code is imported, and with the functions themselves under the family's names:

    from fastunlearn.compat import rosinality
    rosinality.install()

`python -m fastunlearn.compat FAMILY -- SCRIPT ARGUMENTS…` runs an untouched script so. `docs/compat.md` compares the
families.
"""

FAMILIES = ("lucidrains", "rosinality", "stylegan2_ada", "stylegan3")
