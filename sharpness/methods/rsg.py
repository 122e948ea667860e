r"""RSG: rare-class samples generated from the variation of frequent classes (Wang et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sharpness.data import LongTail
from sharpness.errors import UserError, require_whole
from sharpness.methods.ldam import LDAM
from sharpness.methods.recipe import Recipe, Stage
from sharpness.methods.rsg_module import RareSampleGenerator
from sharpness.methods.schedules import MultiStep
from sharpness.models import Staged
from sharpness.steps import Batch, Context, Loss, at_least_float32


def head_classes(train_counts: Tensor, share: float) -> Tensor:
    """Return a mask (C,) of the ``int(share * C)`` largest classes, at least one; ties are broken by class index.

    >>> head_classes(torch.tensor([5, 90, 7, 7, 1]), 0.4).tolist()
    [False, True, True, False, False]
    """
    number = max(1, int(round(share * len(train_counts), 9)))  # the float 0.29 * 100 is a little below 29
    mask = torch.zeros(len(train_counts), dtype=torch.bool, device=train_counts.device)
    mask[train_counts.argsort(descending=True, stable=True)[:number]] = True
    return mask


def rounds(heads: Tensor, tails: Tensor, strength: float) -> list[tuple[Tensor, Tensor]]:
    """Pair head maps with the tail maps that receive their variation; both are positions in the batch.

    The longer list is divided, in order, into ``max(1, int(strength * longer / shorter))`` pieces of the length of the
    shorter list, and each piece is paired with the whole shorter list. The result is empty if either list is.

    >>> rounds(torch.tensor([0, 2, 3, 5, 6]), torch.tensor([1, 4]), 1.0)
    [(tensor([0, 2]), tensor([1, 4])), (tensor([3, 5]), tensor([1, 4]))]
    """
    swapped = len(heads) < len(tails)
    longer, shorter = (tails, heads) if swapped else (heads, tails)
    size = len(shorter)
    if not size:
        return []
    number = max(1, int(strength * len(longer) / size))
    pieces = [longer[j * size : (j + 1) * size] for j in range(number)]
    return [(shorter, piece) if swapped else (piece, shorter) for piece in pieces]


@dataclass(frozen=True)
class RSG(Loss):
    r"""LDAM-DRW on a batch completed by generated maps of rare classes, + 0.1 L_CESC + 0.01 L_MV of the generator.

    .. math:: L = L_{LDAM}(\text{batch and generated}) + 0.1\,L_{CESC} + 0.01\,L_{MV}

    .. code-block:: text

        F = maps of the batch before the last group of blocks (layer2 of a ResNet-32), detached for the generator
        L_CESC = sum of gamma |F - c|^2, mean over the batch       # RareSampleGenerator.center_loss
        up to the fraction ``generate_from`` of the epochs:
            L_CESC += cross-entropy of the pair classifier, first half of the batch with the second
        afterwards, the pair classifier frozen:
            for each round of head maps with tail maps:
                new maps F_t + T(F_h - centre), labelled as F_t     # RareSampleGenerator.generate
            L_MV = mean over the rounds
        F and all new maps pass through the rest of the network in one batch, so BatchNorm there uses both

    Through the new maps, the base loss trains T and the layers after F. Rules that use losses per sample instead of per
    batch are refused. Probes use the base loss, without the generator.

    Args:
        base: loss of labelled logits, with its deferred weights.
        centers: K, the number of centres per class.
        head_share: share of the classes whose variation is transferred, the most frequent ones, to all other classes.
        transfer_strength: fraction of the possible rounds that are made, above 0 and at most 1.
        generate_from: fraction of the epochs after which maps are generated.
        center_weight: weight of L_CESC.
        transfer_weight: weight of L_MV.
    """

    base: LDAM = field(default_factory=LDAM)
    centers: int = 15
    head_share: float = 0.2
    transfer_strength: float = 1.0
    generate_from: float = 0.8
    center_weight: float = 0.1
    transfer_weight: float = 0.01

    def __post_init__(self) -> None:
        require_whole("centers", self.centers, 1)
        if not 0 < self.head_share < 1 or not 0 < self.transfer_strength <= 1:
            raise UserError(
                f"head_share={self.head_share}, transfer_strength={self.transfer_strength}: give a share between 0 and "
                "1 and a strength above 0 to 1"
            )

    def parts(self, model: nn.Module, train_counts: tuple[int, ...]) -> nn.Module | None:
        backbone = self._staged(model)
        channels = int(backbone.group(backbone.num_groups)[0].conv1.in_channels)  # type: ignore[union-attr, arg-type]
        return RareSampleGenerator(channels, len(train_counts), self.centers)

    def of(self, model: nn.Module, batch: Batch, context: Context) -> Tensor:
        generator = model.auxiliary
        if not isinstance(generator, RareSampleGenerator) or batch.second is not None:
            raise ValueError("RSG needs network.auxiliary = loss.parts(network, counts) and batches without mixup")
        backbone, labels = self._staged(model), batch.first
        cut = backbone.num_groups - 1
        with context.autocast():
            hidden = backbone.forward_to(batch.x, cut)
        # Detached, so that the generator's own losses train only the generator, and the base loss trains the network.
        maps = at_least_float32(hidden.detach())
        center_loss, transfer_loss = generator.center_loss(maps, labels), maps.new_zeros(())
        if context.epoch <= self.generate_from * context.epochs:
            center_loss = center_loss + generator.pair_loss(maps, labels)
        else:
            is_head = head_classes(context.train_counts, self.head_share)[labels]
            made = rounds(torch.nonzero(is_head).flatten(), torch.nonzero(~is_head).flatten(), self.transfer_strength)
            for heads, tails in made:
                new, loss = generator.generate(maps[heads], labels[heads], maps[tails], batch.first[tails])
                hidden = torch.cat([hidden, new.to(hidden.dtype)])
                labels = torch.cat([labels, batch.first[tails]])
                transfer_loss = transfer_loss + loss / len(made)
        with context.autocast():
            features = backbone.forward_from(hidden, cut)
        logits = model.head(at_least_float32(features))  # type: ignore[operator]
        total = self.base(logits, labels, context)
        return total + self.center_weight * center_loss + self.transfer_weight * transfer_loss

    def terms(self, logits: Tensor, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        raise UserError(
            "RSG's loss is one of whole batches: this rule, which takes it by sample, cannot be used with it"
        )

    def deterministic(self) -> Loss:
        return self.base

    def _staged(self, model: nn.Module) -> Staged:
        if not isinstance(model.backbone, Staged) or model.backbone.num_groups < 2:
            raise UserError(f"RSG needs a residual network with groups of blocks, not {type(model.backbone).__name__}")
        return model.backbone


def recipe(longtail: LongTail, centers: int = 15, head_share: float = 0.2, transfer_strength: float = 1.0) -> Recipe:
    """RSG with LDAM-DRW as released for CIFAR: generation from epoch 161 of 200 on, drops of x0.01 at 159 and 179.

    Raises:
        UserError: all classes have the same size, so that none is rare.
    """
    if len(set(longtail.train_counts)) == 1:
        raise UserError(f"RSG carries variation from frequent classes to rare ones, and all {longtail.num_classes} of "
                        f"{longtail.dataset} have {longtail.train_counts[0]} images: take ldam-drw")  # fmt: skip
    loss = RSG(centers=centers, head_share=head_share, transfer_strength=transfer_strength)
    return Recipe(
        method="rsg",
        paper="Wang et al., RSG: A Simple but Effective Module for Learning Imbalanced Datasets, CVPR 2021",
        head="cosine",
        scale=loss.base.scale,
        stages=(Stage("rare samples", 200, loss, MultiStep((159, 179), (1e-2, 1e-4)), drop_last=True),),
        notes=(
            "vectors of maps run over channels at a position, as in the paper; the released code reads runs of "
            "neighbouring pixels for them",
            f"head classes are the largest {100 * head_share:g} % by count, in the released code the first fifth by "
            "number; at least one",
        ),
    )
