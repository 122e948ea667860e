"""Training from the weights of a file, such as torchvision's ImageNet weights, instead of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from sharpness.checkpoints import load_checkpoint
from sharpness.engine.undisturbed import seeded
from sharpness.errors import UserError
from sharpness.methods import Recipe
from sharpness.models import BACKBONES, Classifier, FrozenTrunk, ModelSpec, build_model
from sharpness.models.factory import load_weights

#: The note for a recipe that was published with pretrained weights, if none are given.
AT_RANDOM = "published from weights that were trained on ImageNet, which pretrained= gives; here all begin at random"


@dataclass(frozen=True)
class Pretrained:
    """The weights of a feature extractor from a file, without its classifier.

    Attributes:
        path: path of the file, for messages and the card.
        sha256: SHA-256 of the file.
        architecture: architecture that was recognised in the file.
        state: weights and buffers by torchvision's names.
    """

    path: str
    sha256: str
    architecture: str | None
    state: Mapping[str, Tensor]

    @classmethod
    def read(cls, path: str | Path) -> Pretrained:
        """Read a checkpoint of any family, or local weights of a library (``"torchvision:resnet152"``).

        Raises:
            UserError: see :func:`~sharpness.load_checkpoint`.
        """
        checkpoint = load_checkpoint(path)
        model = checkpoint.model
        state = getattr(model, "backbone", model).float().state_dict()
        found = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
        return cls(str(path), checkpoint.sha256, checkpoint.manifest.model.architecture, found)

    def into(self, network: Classifier) -> None:
        """Load the weights into a network, except into its head and the trained block of a frozen trunk.

        Raises:
            UserError: the file holds another network.
        """
        backbone, wanted = network.backbone, network.spec.architecture
        state = dict(self.state)
        if isinstance(backbone, FrozenTrunk):
            own = {name: t for name, t in backbone.state_dict().items() if name.startswith(backbone.fresh)}
            state = {name: t for name, t in state.items() if not name.startswith(backbone.fresh)} | own
        try:
            load_weights(backbone, state, where=f"pretrained={self.path}")
        except UserError as error:
            read = f" (read as {self.architecture})" if self.architecture else ""
            remedy = f"give weights of a {wanted.removesuffix('-trunk')}, or its model="
            raise UserError(f"{error}{read}: {remedy}") from None

    @property
    def card(self) -> str:
        """Description for the card of the first stage."""
        return f"the weights of {Path(self.path).name} (SHA-256 {self.sha256[:12]}) but for its classifier"


def fresh_network(spec: ModelSpec, recipe: Recipe, pretrained: Pretrained | None, seed: int) -> Classifier:
    """Build a network with its initial weights, drawn from ``seed``; torch's global generator is restored.

    Raises:
        UserError: the file holds another network, or a frozen trunk is built without a file.
    """
    with seeded(seed):
        network = build_model(spec.architecture, spec.num_classes, spec.in_channels, spec.head, spec.scale)
        if pretrained is not None:
            pretrained.into(network)
        elif isinstance(network.backbone, FrozenTrunk):
            raise UserError(
                f"{spec.architecture} never trains its trunk: give the weights that it has as pretrained=FILE "
                f"(--pretrained FILE), or take model={spec.architecture.removesuffix('-trunk')!r}, which trains all"
            )
        if recipe.normalization:
            recipe.normalization.apply(network)
        return network


def architecture_of(recipe: Recipe, usual: str, pretrained: bool) -> str:
    """Return the usual architecture of the data, with a frozen trunk if the recipe has one and weights are given."""
    trunk = f"{usual}-trunk"
    return trunk if recipe.frozen_trunk and pretrained and trunk in BACKBONES.built_in() else usual
