"""``pickled.py CHECKOUT FAMILY NETWORK OUT``: pickles their networks as they do, 32 px, with random weights."""

import pickle
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import natively

    family, network, out = sys.argv[2:]
    natively.prepare(family)
    from networks import build

    modules = build(family, network, 32).modules
    modules = {**build(family, "stylegan2", 32).modules, **modules}  # StyleGAN3 has StyleGAN2's discriminator
    contents = {"G": modules["g"], "D": modules["d"], "G_ema": modules["g"]}
    for module in contents.values():
        module.eval().requires_grad_(False)
    with open(out, "wb") as file:
        pickle.dump({**contents, "training_set_kwargs": None, "augment_pipe": None}, file)
