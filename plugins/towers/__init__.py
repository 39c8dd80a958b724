"""Trainings that start from pretrained networks of other kinds than CLIP's: image backbones and text encoders."""
