"""The data loader: shards, decoding, augmentation and sampling order."""
