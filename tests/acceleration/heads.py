"""A small network whose heads upsample, concatenate and convolve, and what replaces such a head."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqca.acceleration import LazyMap, Replacement
from seqca.acceleration.layers import against_head
from seqca.acceleration.lazy import upsampled_lazily
from seqca.loss_type import Loss
from seqca.nn.cross_scale import aggregate
from seqca.ops import upsampled_loss

CHANNELS = (6, 8)


class UpsamplingHead(nn.Module):
    """Maps of two scales to a prediction at the finer one."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        total = sum(CHANNELS)
        last = nn.Conv2d(total, out_channels, 1)
        self.layers = nn.Sequential(nn.Conv2d(total, total, 1), nn.BatchNorm2d(total), nn.ReLU(), last)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        coarse = F.interpolate(maps[1], maps[0].shape[-2:], mode="bilinear")
        return self.layers(torch.cat([maps[0], coarse], 1))


class ForkedHead(UpsamplingHead):
    """A fork that does something else under the same name."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        coarse = F.interpolate(maps[1], maps[0].shape[-2:], mode="nearest")
        return self.layers(torch.cat([maps[0], coarse], 1))


ForkedHead.__name__ = "UpsamplingHead"


class FusedHead(nn.Module):
    """What `UpsamplingHead` computes."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        return aggregate(maps, conv, norm, prediction)


class HeadWithoutUpdates(nn.Module):
    """Forgets the running statistics."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        before = [x.clone() for x in norm.buffers()]
        predicted = aggregate(maps, conv, norm, prediction)
        for x, old in zip(norm.buffers(), before, strict=True):
            x.copy_(old)
        return predicted


class HeadOfAnotherEpsilon(nn.Module):
    """Off by a millionth of the variance, which float32 hardly shows."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        eps, norm.eps = norm.eps, norm.eps + 1e-7
        predicted = aggregate(maps, conv, norm, prediction)
        norm.eps = eps
        return predicted


class HeadWrongInFloat32(nn.Module):
    """As a kernel may be that float64 does not run on."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        predicted = aggregate(maps, conv, norm, prediction)
        return predicted * 1.0001 if predicted.dtype == torch.float32 else predicted


class HeadWithoutGradient(nn.Module):
    """Right predictions, and no gradient for the coarse map."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        return aggregate([maps[0], maps[1].detach()], conv, norm, prediction)


class HeadThatTrainsAlways(nn.Module):
    """Statistics of the batch in evaluation too."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        conv, norm, _, prediction = self.layers
        training = norm.training
        predicted = aggregate(maps, conv, norm.train(), prediction)
        norm.train(training)
        return predicted


class HeadThatRaises(nn.Module):
    """Not for these maps."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        raise RuntimeError("no such maps")


class HeadThatRaisesInFloat32(nn.Module):
    """Right in float64."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if maps[0].dtype == torch.float32:
            raise RuntimeError("no such dtype")
        return super().forward(maps)


def against(module: nn.Module) -> str | None:
    """What a head must be to be replaced."""
    return against_head("layers", getattr(module, "layers", None))


def head(fused: type[nn.Module] = FusedHead) -> Replacement:
    """A replacement of heads; see `taught`, which fills in the fingerprint."""
    return Replacement("tests.head", "UpsamplingHead", ("unknown",), fused, against)


class Network(nn.Module):
    """Two tasks on one backbone; predictions of the image's size."""

    def __init__(self, head: type[nn.Module] = UpsamplingHead) -> None:
        super().__init__()
        torch.manual_seed(0)
        fine = nn.Sequential(nn.Conv2d(3, CHANNELS[0], 3, 2, 1), nn.BatchNorm2d(CHANNELS[0]), nn.ReLU())
        coarse = nn.Sequential(nn.Conv2d(CHANNELS[0], CHANNELS[1], 3, 2, 1), nn.BatchNorm2d(CHANNELS[1]), nn.ReLU())
        self.backbone = nn.ModuleList([fine, coarse])
        self.dropout = nn.Dropout(0.1)
        self.heads = nn.ModuleDict({"depth": head(1), "normals": head(3)})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.dropout(self.backbone[0](images))
        maps = [fine, self.backbone[1](fine)]
        size = images.shape[-2:]
        return {task: F.interpolate(head(maps), size, mode="bilinear") for task, head in self.heads.items()}


class Objective(nn.Module):
    """Absolute errors, and their sum."""

    def forward(self, output: dict[str, Tensor], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = {task: F.l1_loss(output[task], targets[task]) for task in targets}
        return {**losses, "total": torch.stack([*losses.values()]).sum()}


class LazyNetwork(nn.Module):
    """What `Network` computes, its predictions upsampled when they are read."""

    def forward(self, images: Tensor) -> dict[str, LazyMap]:
        fine = self.dropout(self.backbone[0](images))
        maps = [fine, self.backbone[1](fine)]
        return {task: upsampled_lazily(self, head(maps), images.shape[-2:]) for task, head in self.heads.items()}


class FusedObjective(nn.Module):
    """What `Objective` computes; it does not read lazy maps."""

    def forward(self, output: dict[str, Tensor | LazyMap], targets: dict[str, Tensor]) -> dict[str, Tensor]:
        losses = {task: _l1(output[task], targets[task]) for task in targets}
        return {**losses, "total": torch.stack([*losses.values()]).sum()}


def _l1(prediction: Tensor | LazyMap, target: Tensor) -> Tensor:
    if isinstance(prediction, LazyMap):
        return upsampled_loss(prediction.coarse, target, Loss("l1"))
    return F.l1_loss(prediction, target)


NETWORK = Replacement("tests.network", "Network", ("unknown",), LazyNetwork, calls=("*",), lazy=True, hands_lazy=True)
OBJECTIVE = Replacement("tests.objective", "Objective", ("unknown",), FusedObjective, lazy=True)


def sample() -> tuple[Tensor, dict[str, Tensor]]:
    """Two images and their labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 24, 32, generator=generator)
    return images, {
        "depth": torch.rand(2, 1, 24, 32, generator=generator),
        "normals": torch.randn(2, 3, 24, 32, generator=generator),
    }
