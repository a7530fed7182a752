"""Boundary refinement, x + conv3x3(relu(conv3x3(x))), in Triton."""
