raise RuntimeError("Error building extension 'upfirdn2d'")
