"""``pickled.py CHECKOUT FAMILY NETWORK OUT``: writes a pickle of their networks at 32 px, with random weights, as they do."""

import pickle
import sys

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import natively

    family, network, out = sys.argv[2:]
    natively.prepare(family)
    from networks import build

    modules = {
        name.upper(): module.eval().requires_grad_(False) for name, module in build(family, network, 32).modules.items()
    }
    contents = {**modules, "G_ema": modules["G"], "training_set_kwargs": None, "augment_pipe": None}
    with open(out, "wb") as file:
        pickle.dump({"D": None, **contents}, file)
