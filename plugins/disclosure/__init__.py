"""Documents that disclose what a model was made of: the EU's public summary of training content, and the ML-BOM."""
