"""Let a model write a caption of each image that curate keeps, through an endpoint that the config names."""
