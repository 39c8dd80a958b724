"""Find images and words that a dataset should not have: known harmful images, by lists of their digests, and scores of
pornography and of faces.
"""
