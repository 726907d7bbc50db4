"""The objective that trains a copy-detection descriptor: InfoNCE and a differential-entropy term, as SSCD.

Source: Pizzi, Roy, Ravindra, Goyal, Douze, "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(descriptors: Tensor, image_ids: Tensor, *, temperature: float) -> Tensor:
    """Mean cross-entropy of picking a view's other views among all views of the batch.

    Args:
        descriptors: V×d, unit norm, every image by at least two views.
        image_ids: V, which image each view shows.
        temperature: divides the cosine similarities.
    """
    itself = torch.eye(len(descriptors), dtype=torch.bool, device=descriptors.device)
    logits = (descriptors @ descriptors.T / temperature).masked_fill(itself, -torch.inf)
    log_probabilities = logits - logits.logsumexp(1, keepdim=True)
    same = (image_ids[:, None] == image_ids) & ~itself
    # chosen by a mask as an index, the views would have to be counted first, for which the CPU waits for the GPU
    return -log_probabilities.masked_fill(~same, 0).sum() / same.sum()


def koleo(descriptors: Tensor, image_ids: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Minus the mean logarithm of each view's distance to the nearest view of another image (Kozachenko–Leonenko).

    Spreads the descriptors over the sphere, so that distances mean the same everywhere.

    Args:
        descriptors: V×d, unit norm.
        image_ids: V, which image each view shows.
        eps: keeps the logarithm finite.
    """
    other = image_ids[:, None] != image_ids
    with torch.no_grad():
        nearest = (descriptors @ descriptors.T).masked_fill(~other, -torch.inf).argmax(1)
    distances = F.pairwise_distance(descriptors, descriptors[nearest], eps=eps)
    return -(distances + eps).log().mean()
