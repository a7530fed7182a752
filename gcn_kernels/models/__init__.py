"""The network of the paper: ResNet encoders, global convolutions, boundary refinement, and the heads it is compared with."""

from gcn_kernels.models.heads import HEADS, DenseHead, PointHead, StackHead, make_head
from gcn_kernels.models.network import BoundaryRefinement, GCNNet
from gcn_kernels.models.resnet import ResNet, resnet, resnet50_gcn

__all__ = [
    "HEADS",
    "BoundaryRefinement",
    "DenseHead",
    "GCNNet",
    "PointHead",
    "ResNet",
    "StackHead",
    "make_head",
    "resnet",
    "resnet50_gcn",
]
