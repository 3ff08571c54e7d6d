"""The one training loop, the losses and regularisers it runs, and the states it saves."""
