"""The features of frozen towers: computed once, kept on disk, and read in place of images and texts."""
