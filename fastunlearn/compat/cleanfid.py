"""Drop-in for GaParmar/clean-fid (``pip install clean-fid``): its Fréchet distance, which is pytorch-fid's.

    from fastunlearn.compat import cleanfid
    cleanfid.install()

    from cleanfid.fid import compute_fid        # theirs, with our distance

Images, resizing, network and statistics stay theirs. `docs/compat.md` has what is exactly as theirs and what is not.
"""

from .dropin import DropIn, in_place_of
from .pytorch_fid import calculate_frechet_distance as frechet_distance

__all__ = ["frechet_distance", "install", "installed", "uninstall"]

_dropin = DropIn("cleanfid", modules={}, patches={"cleanfid.fid": in_place_of("frechet_distance", frechet_distance)})
install, uninstall, installed = _dropin.install, _dropin.uninstall, _dropin.installed
