"""TFDS builders that turn collections of images and captions into ArrayRecord data sets."""
