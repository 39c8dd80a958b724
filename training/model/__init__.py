"""The CLIP model: towers, tokenizer, preprocessing and checkpoint formats."""
