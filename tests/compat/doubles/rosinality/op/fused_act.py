raise RuntimeError("Error building extension 'fused_act'")
