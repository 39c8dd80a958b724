"""Checkpoints to resume a training from: their files, and how they are written and read. No pickle anywhere.

A checkpoint is a folder `checkpoints/step-NNNNNN` with model.safetensors, optimizer.safetensors, state.json and, written
last in it, manifest.json with the sha256 of the others. It is written under another name and renamed, so a crash leaves
none or all of it. It holds no state of a random generator: every draw of training is a function of (seed, epoch, sample).

With sharding each rank writes its part of the tensors: model-00001-of-00008.safetensors and so on. A tensor is the rows of
its parts in the order of the files; those that each rank keeps whole are in the first file. Any number of ranks reads
them.
"""
