"""Random changes to the images of a training, on the device that trains."""
