r"""M2m: major-to-minor translation of images for rare classes (Kim, Jeong and Shin, CVPR 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sharpness.data import ImageSet, LongTail
from sharpness.data.standardization import channel_values
from sharpness.engine.folded import Folded, folded
from sharpness.engine.modules import evaluating
from sharpness.errors import UserError
from sharpness.methods import cross_entropy
from sharpness.methods.cross_entropy import LDAM_SCHEDULE, CrossEntropy
from sharpness.methods.m2m_translation import Translation
from sharpness.methods.recipe import Deferred, Recipe, Stage
from sharpness.steps import Batch, Context, at_least_float32


def acceptance_probabilities(train_counts: Tensor, beta: float) -> Tensor:
    r"""Return ``P[k0, k] = 1 - beta^max(n_k0 - n_k, 0)``, shape (C, C): acceptance of class k0 as a seed for class k.

    >>> acceptance_probabilities(torch.tensor([3, 1]), 0.5).tolist()
    [[0.0, 0.75], [0.0, 0.0]]
    """
    counts = train_counts.double()
    return 1 - beta ** (counts[:, None] - counts[None, :]).clamp_min(0)


def helper_of(network: nn.Module) -> nn.Module:
    """Return the frozen helper of a network."""
    if not isinstance(network.auxiliary, nn.Module):
        raise ValueError("M2m needs network.auxiliary")
    return network.auxiliary


@dataclass(frozen=True)
class MajorToMinor:
    r"""Replace images of an oversampled batch by translations of its images of more frequent classes.

    g is the frozen helper, ``network.auxiliary``; f is the network being trained; n_max is the largest class size.

    .. code-block:: text

        every image i is kept with probability n_{y_i} / n_max; the others are slots with target k = y_i
        for each slot:
            P_j = 1 - beta^max(n_{y_j} - n_k, 0)   for every image j of the batch
            skip the slot if all P_j are 0; else draw one seed j with probability proportional to P_j
            x = translation of image j from k0 = y_j to k                        # see Translation
            accept x if softmax(g(x))_k >= gamma, with probability P_j
        accepted slots hold x, all others keep their image; labels do not change

    The random decision does not depend on x, so it is made first, and rejected slots are not translated. f is in eval
    mode during translation; weights, their gradients and BatchNorm's statistics do not change.

    Args:
        folded: g and f for fast derivatives by their inputs, see :meth:`for_epoch`; otherwise, the networks themselves.
    """

    beta: float = 0.999
    gamma: float = 0.9
    translation: Translation = field(default_factory=Translation)
    folded: tuple[Folded, Folded] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("beta", self.beta), ("gamma", self.gamma)):
            if not 0 <= value < 1:
                raise UserError(f"{name}={value}: give a number from 0 to below 1, such as 0.9")

    def __call__(self, network: nn.Module, batch: Batch, images: ImageSet, context: Context) -> Batch:
        if batch.second is not None:
            raise ValueError("M2m needs batches without mixup")
        slots, seeds = self.draw(batch.first.cpu(), context)
        if not len(slots):
            return batch
        device, networks = batch.x.device, (helper_of(network), network)
        slots, seeds = slots.to(device), seeds.to(device)
        mean, std = (channel_values(tuple(v), device, batch.x.dtype) for v in (images.mean, images.std))

        def on_pixels(model: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def logits(pixels: Tensor) -> Tensor:
                with context.autocast():
                    return at_least_float32(model((pixels - mean) / std))

            return logits

        def translate(start: Tensor, classes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            # Folded here and not outside, so that a replayed graph reads the weights of its step.
            g, f = map(on_pixels, [folded.now() for folded in self.folded] if self.folded else networks)
            made = self.translation(start, classes, targets, g, f)
            with torch.no_grad():
                return made, g(made).softmax(1).gather(1, targets[:, None]).squeeze(1)

        pixels = (batch.x[seeds] * std + mean).clamp(0, 1)
        with evaluating(network):
            inputs = self.translation.start(pixels, context.generator), batch.first[seeds], batch.first[slots]
            if context.replayed is None:
                made, confidence = translate(*inputs)
            else:  # padded to the batch size: a graph has a fixed shape, and images do not interact
                fill = len(batch.x) - len(slots)
                full = (torch.cat([t, t[:1].expand(fill, *t.shape[1:])]) for t in inputs)
                made, confidence = (t[: len(slots)] for t in context.replayed(self, translate, *full))
        accepted = confidence >= self.gamma
        x = batch.x.clone()
        x[slots[accepted]] = (made[accepted] - mean) / std
        return replace(batch, x=x)

    def for_epoch(self, network: nn.Module, images: ImageSet, context: Context) -> MajorToMinor:
        """Return this transform with folded networks, unless they cannot be traced."""
        sample = images.normalize(images.images[:4]).to(next(network.parameters()).dtype)
        g, f = (folded(model, sample, context.autocast) for model in (helper_of(network), network))
        return replace(self, folded=(g, f)) if g and f else self

    def draw(self, labels: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Draw positions in the batch of the slots to translate (m,) and of their seeds (m,), on the CPU."""
        counts, generator = context.train_counts.cpu().double(), context.generator
        keep = torch.rand(len(labels), generator=generator, dtype=torch.float64) < counts[labels] / counts.max()
        slots = torch.nonzero(~keep).flatten()
        rows = acceptance_probabilities(counts, self.beta)[labels][:, labels[slots]].T
        possible = rows.sum(1) > 0
        slots, rows = slots[possible], rows[possible]
        if not len(slots):
            return slots, slots
        seeds = torch.multinomial(rows, 1, generator=generator)
        coin = torch.rand(len(slots), generator=generator, dtype=torch.float64) < rows.gather(1, seeds).squeeze(1)
        return slots[coin], seeds.squeeze(1)[coin]


def recipe(
    longtail: LongTail,
    beta: float = 0.999,
    gamma: float = 0.9,
    seed_weight: float = 0.5,
    step_length: float = 0.1,
    steps: int = 10,
    helper: str | None = None,
) -> Recipe:
    """A helper trained like the cross-entropy baseline, then 200 epochs with translation from epoch 161 on.

    Before epoch 161 the second stage equals the baseline; afterwards images are drawn with weights 1 / n_y. The
    defaults are those released for CIFAR-10-LT at imbalance 100; the paper tunes beta (0.9 to 0.999), gamma (0.9, 0.99)
    and the weight of the seed class, lambda (0.01 to 0.5), for every data set. A flattening operation is used in both
    stages; each batch is translated once, before the operation.

    BatchNorm's running statistics follow the oversampled batches, as published. This matters if rare classes have few
    images: with ``epochs=60`` on digits-lt accuracy is 91.6 %, and 95.8 % with statistics recomputed on the training
    set (cross-entropy: 95.2 and 95.4 %).

    Args:
        beta: base of the acceptance probabilities.
        gamma: smallest confidence of the helper in a translated image.
        seed_weight: lambda.
        step_length: length of a translation step.
        steps: number of translation steps.
        helper: path of a checkpoint to use as helper, such as that of a ``ce`` run with another seed, instead of
            training one.
    """
    if helper is not None and not isinstance(helper, str):
        raise UserError(f"helper={helper!r}: give the path of a checkpoint as text")
    # Translation begins when the learning rate drops, after 0.8 of the epochs.
    transform = MajorToMinor(beta, gamma, Translation(seed_weight, step_length, steps))
    second = Stage(
        "translation",
        200,
        CrossEntropy(),
        LDAM_SCHEDULE,
        helper=helper or "previous",
        deferred=Deferred(0.8, "inverse_frequency", transform),
    )
    first = replace(cross_entropy.recipe(longtail).stages[0], name="helper")
    return Recipe(
        method="m2m",
        paper="Kim, Jeong and Shin, M2m: Imbalanced Classification via Major-to-minor Translation, CVPR 2020",
        stages=(second,) if helper else (first, second),
        notes=(
            "the noise before translation is cut to length 0.5 per image; in the released code per channel over all "
            "images that a batch translates, so that one image's is about 0.87 / sqrt(images), 0.09 for 100",
            "an image is kept with probability n_y / n_max, in the released code n_y / n_0",
            "the network of the released code appends the zeros of its shortcuts: that is model resnet32-m2m",
            "normalisation and training images are those of the data set given; the released code takes the first "
            "images of each class (subset first_n, profile exp_m2m) and own statistics for CIFAR-100",
            "the last epoch counts, in the released code the best on a tenth of the test set",
        ),
    )
