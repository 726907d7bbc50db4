"""The activation written down literally, as anybody would at first: the tests' oracle, the benchmark's rival.

Per image and in fp32, autograd through everything, statistics in every iteration; only the extractor is
called on a batch. Nothing of aindex.activation is used, so that it can judge it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)
ALPHA = 0.072 / torch.tensor((0.299, 0.587, 0.114)).view(3, 1, 1)


def jnd(image: Tensor) -> Tensor:
    """3×H×W in [0, 1] → 1×H×W."""
    red, green, blue = image
    y = 255 * (0.299 * red + 0.587 * green + 0.114 * blue)[None, None]
    padded = F.pad(y, (2, 2, 2, 2), mode="reflect")
    background_kernel = torch.ones(1, 1, 5, 5, device=image.device)
    background_kernel[..., 1:4, 1:4] = 2
    background_kernel[..., 2, 2] = 0
    background = F.conv2d(padded, background_kernel / 32)
    dark = 17 * (1 - torch.sqrt(background / 127 + 1e-3)) + 3
    masking = torch.where(background <= 127, dark, 3 / 128 * (background - 127) + 3)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=image.device)
    padded = F.pad(y, (1, 1, 1, 1), mode="reflect")
    gradient = F.conv2d(padded, torch.stack([sobel, sobel.T])[:, None]).square().sum(1, keepdim=True).sqrt()
    contrast = 0.117 * 16 * gradient**2.4 / (gradient**2 + 26**2)
    return (masking + contrast - 0.3 * torch.minimum(masking, contrast)).clamp(min=5)[0] / 255


def plain_loop(
    images: Sequence[Tensor],
    targets: Tensor,
    extractor: Callable[[Tensor], Tensor],
    *,
    input_size: int,
    seeds: Sequence[int],
    iterations: int = 10,
    loss_f: str = "cossim",
    lambda_f: float = 1.0,
    lambda_i: float = 0.01,
    scaling: float = 3.0,
    use_attenuation: bool = True,
    use_tanh: bool = True,
    scale_channels: bool = True,
    learning_rate: float = 1.0,
    on_iteration: Callable[[dict[str, Any]], None] = lambda record: None,
) -> list[Tensor]:
    """Activate images (3×H×W in [0, 1]); returns H×W×3 uint8 each."""
    device = targets.device
    mean, std = MEAN.to(device), STD.to(device)
    alpha = ALPHA.to(device) if scale_channels else torch.ones(3, 1, 1, device=device)
    originals = [(image - mean) / std for image in images]
    heatmaps = [scaling * jnd(image) for image in images]
    if not use_attenuation:
        heatmaps = [torch.full_like(heat, float(heat.mean())) for heat in heatmaps]
    deltas = []
    for image, seed in zip(images, seeds, strict=True):
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
        deltas.append((1e-6 * noise).to(device).requires_grad_())
    optimizer = torch.optim.Adam(deltas, lr=learning_rate)

    def change(i: int) -> Tensor:
        bounded = torch.tanh(deltas[i]) if use_tanh else deltas[i]
        return originals[i] + heatmaps[i] * (alpha * bounded)

    for iteration in range(iterations):
        changed = [change(i) for i in range(len(images))]
        resized = [
            F.interpolate(x[None], size=(input_size, input_size), mode="bilinear", antialias=True)
            for x in changed
        ]
        y = extractor(torch.cat(resized))
        cosine = F.cosine_similarity(y, targets)
        feature_loss = -cosine if loss_f == "cossim" else ((y - targets) ** 2).sum(1)
        image_loss = torch.stack(
            [((x - original) ** 2).mean() for x, original in zip(changed, originals, strict=True)]
        )
        loss = (lambda_f * feature_loss + lambda_i * image_loss).sum()
        optimizer.zero_grad()
        loss.backward()
        shown = [(x.detach() * std + mean).clamp(0, 1) for x in changed]
        errors = [shown[i] - images[i] for i in range(len(images))]
        on_iteration(
            {
                "iteration": iteration,
                "loss": loss.item(),
                "feature_loss": feature_loss.tolist(),
                "image_loss": image_loss.tolist(),
                "psnr_db": [-10 * torch.log10((e**2).mean()).item() for e in errors],
                "linf": [255 * e.abs().max().item() for e in errors],
                "gradients": [delta.grad for delta in deltas],
            }
        )
        optimizer.step()
    with torch.no_grad():
        released = [(change(i) * std + mean).clamp(0, 1) for i in range(len(images))]
    return [(255 * x).round().to(torch.uint8).permute(1, 2, 0) for x in released]
