"""Networks: backbones, heads and the registry that builds them by name."""

from sharpness.models.classifier import BACKBONES, Classifier, ModelSpec, build_model
from sharpness.models.heads import HEADS, CosineHead, LearnableWeightScaling, LinearHead, build_head
from sharpness.models.resnet_cifar import BasicBlock, CifarResNet

__all__ = [
    "BACKBONES",
    "HEADS",
    "BasicBlock",
    "CifarResNet",
    "Classifier",
    "CosineHead",
    "LearnableWeightScaling",
    "LinearHead",
    "ModelSpec",
    "build_head",
    "build_model",
]
