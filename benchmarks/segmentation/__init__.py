"""Shared parts of the segmentation experiments: data sets, recipe, training, testing, metrics, pictures."""
