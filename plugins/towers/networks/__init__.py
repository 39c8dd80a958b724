"""The pretrained networks by which a tower encodes: each module registers one, and a registered model has its own copy."""
