"""Generate or serve the inputs of the benchmarks: captions, tables, images, archives."""
