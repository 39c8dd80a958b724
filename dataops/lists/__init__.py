"""Large lists in memory: sets of 128-bit values, and of perceptual hashes that are searched by distance."""
