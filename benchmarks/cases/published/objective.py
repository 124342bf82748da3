"""The objective in plain torch: every prediction at the label's size, then its loss."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seqca.loss_type import Loss
from seqca.models.network import NetworkOutput
from seqca.tasks import get_task


def published_objective(output: NetworkOutput, targets: Mapping[str, Tensor]) -> Tensor:
    """The weighted sum of all tasks' losses of their final and deep predictions, each upsampled to the label's size."""
    total = torch.zeros((), device=next(iter(targets.values())).device)
    for predictions in (output.final, *output.deep):
        for name, prediction in predictions.items():
            task, target = get_task(name), targets[name]
            assert isinstance(task.loss, Loss)
            total = total + task.weight * plain_loss(upsampled(prediction, target.shape[-2:]), target, task.loss)
    return total


def plain_loss(prediction: Tensor, target: Tensor, loss: Loss) -> Tensor:
    """The loss of a full-size prediction; half precision is computed in float32."""
    z = prediction.float() if prediction.itemsize < 4 else prediction
    if loss.kind == "cross_entropy":
        return F.cross_entropy(z, target, ignore_index=-100 if loss.ignore is None else int(loss.ignore))
    target = target.to(z.dtype)
    if loss.kind == "balanced_bce":
        positive = (target >= 0.5).to(z.dtype)
        weight = 1 - positive.mean() if loss.positive_weight is None else loss.positive_weight
        weights = weight * positive + (1 - weight) * (1 - positive)
        return F.binary_cross_entropy_with_logits(z, positive, weights)
    if loss.kind == "unit_l1":
        z = F.normalize(z, dim=1)
    valid = target != loss.ignore
    return F.l1_loss(z.masked_select(valid), target.masked_select(valid))


def upsampled(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinearly, to a size."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
