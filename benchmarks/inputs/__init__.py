"""Inputs that benchmarks generate or serve: captions, tables, images, archives."""
