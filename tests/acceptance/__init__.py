"""Networks that others have, from PyTorch to layers and gradients."""
