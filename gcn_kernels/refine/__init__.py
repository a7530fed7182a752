"""Boundary refinement: a map plus two 3 x 3 convolutions of it with a ReLU between."""
