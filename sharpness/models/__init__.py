"""Networks: backbones, heads and the registry that builds them by name."""

from sharpness.models.classifier import BACKBONES, OWN, Classifier, ModelSpec, build_model, build_own
from sharpness.models.frozen import Frozen
from sharpness.models.frozen_trunk import FrozenTrunk
from sharpness.models.heads import HEADS, CosineHead, LearnableWeightScaling, LinearHead, build_head
from sharpness.models.oltr import MetaEmbeddingHead, ModulatedAttention, OltrFeatures
from sharpness.models.resnet import PLANS, ResNet, build_resnet
from sharpness.models.resnet_cifar import BasicBlock, CifarResNet
from sharpness.models.scaled_head import ScaledHead
from sharpness.models.staged import Staged
from sharpness.models.wide_resnet import WideResNet

__all__ = [
    "BACKBONES",
    "HEADS",
    "OWN",
    "PLANS",
    "BasicBlock",
    "CifarResNet",
    "Classifier",
    "CosineHead",
    "Frozen",
    "FrozenTrunk",
    "LearnableWeightScaling",
    "LinearHead",
    "MetaEmbeddingHead",
    "ModelSpec",
    "ModulatedAttention",
    "OltrFeatures",
    "ResNet",
    "ScaledHead",
    "Staged",
    "WideResNet",
    "build_head",
    "build_model",
    "build_own",
    "build_resnet",
]
