r"""The rare-class sample generator of RSG (CVPR 2021): centres, a pair classifier, transfer of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PairClassifier(nn.Module):
    """A classifier of pairs of maps (n, channels, h, w): logits (n, 2) of *other class* (0) and *same class* (1).

    The concatenated maps pass through a 1x1 convolution, ReLU, a 3x3 convolution, average pooling and a linear layer,
    with ``hidden`` channels.
    """

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2 * channels, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.linear = nn.Linear(hidden, 2)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        hidden = F.relu(self.conv1(torch.cat([first, second], dim=1)))
        return self.linear(self.conv2(hidden).mean(dim=(2, 3)))


class RareSampleGenerator(nn.Module):
    r"""The part of RSG that is trained together with a network, on detached maps F (n, channels, h, w).

    Its parameters are the centres :math:`c_{yj}` (C, K, channels), initialised with zeros; a linear map for each class
    with weight :math:`l_y` (C, channels, K), initialised as standard normal, and offset :math:`b_y` (C, K), initialised
    with ones, which gives the soft assignments :math:`\gamma(F, y) = \mathrm{softmax}(l_y^T \bar F + b_y)`, with
    :math:`\bar F` the mean over positions; the pair classifier; and the transfer T, a 3x3 convolution.
    """

    def __init__(self, channels: int, num_classes: int, centers: int = 15, hidden: int = 256) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(num_classes, centers, channels))
        self.weight = nn.Parameter(torch.randn(num_classes, channels, centers))
        self.offset = nn.Parameter(torch.ones(num_classes, centers))
        self.pairs = PairClassifier(channels, hidden)
        self.transfer = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.kaiming_normal_(self.transfer.weight)
        nn.init.zeros_(self.transfer.bias)  # type: ignore[arg-type]

    def assignments(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the soft assignments (n, K) of maps to the centres of their classes; rows sum to 1."""
        scores = torch.einsum("nc,nck->nk", maps.mean(dim=(2, 3)), self.weight[labels]) + self.offset[labels]
        return scores.softmax(dim=1)

    def center_loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        r"""Return :math:`\frac1n \sum_i \sum_j \gamma_{ij} \|F_i - c_{y_i j}\|^2`; a centre is constant over positions.

        With P positions the square is :math:`\sum_p \|F_{ip} - \bar F_i\|^2 + P \|\bar F_i - c\|^2`, which is computed
        without a map for each centre.
        """
        mean = maps.mean(dim=(2, 3), keepdim=True)
        within = (maps - mean).square().sum(dim=(1, 2, 3))
        to_centers = (mean.flatten(1)[:, None] - self.centers[labels]).square().sum(dim=2)
        positions = maps.shape[2] * maps.shape[3]
        between = positions * (self.assignments(maps, labels) * to_centers).sum(dim=1)
        return (within + between).mean()

    def pair_loss(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return the pair classifier's loss for images i and i + n // 2; for odd n the last image has no partner."""
        half = len(maps) // 2
        same = (labels[:half] == labels[half : 2 * half]).long()
        return F.cross_entropy(self.pairs(maps[:half], maps[half : 2 * half]), same)

    def displacement(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Return maps minus the centre of their class with the largest assignment, detached."""
        with torch.no_grad():
            nearest = self.assignments(maps, labels).argmax(dim=1)
            return maps - self.centers[labels, nearest][:, :, None, None]

    def generate(self, heads: Tensor, head_labels: Tensor, tails: Tensor, tail_labels: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return new tail maps F_t + T(v), where v = F_h - nearest centre, and the loss of T.

        .. math:: L_{MV} = \mathrm{CE}(\mathrm{pair}(F_h, T(v)), \text{other}) + \frac1m \sum_{i,p} \Big[
                  \big| \|T(v)_{ip}\| - \|v_{ip}\| \big| + \sum_c \big| \hat t_{ipc} \hat T(v)_{ipc} - 1 \big| \Big]

        for m pairs of maps, positions p and channels c. Norms are over channels; hats denote the unit vectors of T(v)
        and of t = F_t - nearest centre. Gradients flow through the pair classifier, but not to its parameters.

        Args:
            heads: F_h (m, channels, h, w), with classes ``head_labels`` (m,).
            tails: F_t (m, channels, h, w), with classes ``tail_labels`` (m,).
        """
        v, t = self.displacement(heads, head_labels), self.displacement(tails, tail_labels)
        moved = self.transfer(v)
        frozen = {name: p.detach() for name, p in self.pairs.named_parameters()}
        logits = torch.func.functional_call(self.pairs, frozen, (heads, moved))
        other = F.cross_entropy(logits, torch.zeros_like(head_labels))
        lengths = torch.linalg.vector_norm(moved, dim=1) - torch.linalg.vector_norm(v, dim=1)
        cosines = F.normalize(t, dim=1) * F.normalize(moved, dim=1) - 1
        return tails + moved, other + (lengths.abs().sum() + cosines.abs().sum()) / len(heads)
