"""Convolutions with batch norms whose arithmetic `seqca.ops.norm_relu` does: for which modules it can, and the call."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from seqca.ops import norm_relu

from .batch_norm import (
    running_statistics,
    synchronised_over,
    update_running_statistics,
    uses_batch_statistics,
)


class ConvNorm(NamedTuple):
    """A convolution without bias, and the batch norm of its output."""

    conv: nn.Conv2d
    bn: nn.BatchNorm2d | nn.SyncBatchNorm

    def parameters(self) -> list[Tensor]:
        """The convolution's weight, and the norm's weight and bias."""
        return [self.conv.weight, self.bn.weight, self.bn.bias]


def fusable(layers: Sequence[tuple[nn.Module, nn.Module]], *others: nn.Module) -> bool:
    """Whether `conv_norm_relu` computes what modules would: plain convolutions and norms, ReLUs, and no hooks on them.

    The norms are all in training or all in evaluation mode, of one ε and one group of processes.

    Args:
        layers: convolutions and what normalises them.
        others: the activations between them, and modules that are to do nothing.
    """
    norms = [bn for _, bn in layers]
    if not all(type(bn) in (nn.BatchNorm2d, nn.SyncBatchNorm) and bn.affine for bn in norms):
        return False
    if not all(type(conv) is nn.Conv2d and _is_plain(conv) for conv, _ in layers):
        return False
    if not all(type(module) in (nn.ReLU, nn.Identity) for module in others):
        return False
    if any(map(has_hooks, (*(module for layer in layers for module in layer), *others))):
        return False
    return len({(uses_batch_statistics(bn), bn.eps, synchronised_over(bn)) for bn in norms}) == 1  # type: ignore[arg-type]


def conv_norm_relu(
    maps: Sequence[Tensor],
    layers: Sequence[ConvNorm],
    residual: Tensor | None = None,
    projection: bool = False,
    parameters: Sequence[Sequence[Tensor]] | None = None,
    batches: int = 1,
) -> Tensor:
    """`seqca.ops.norm_relu` with parameters and statistics of modules, whose running statistics it updates.

    Args:
        maps, residual, projection, batches: of the operator. Statistics are updated batch by batch.
        layers: that `fusable` found to be so.
        parameters: by layer the convolution's weight and the norm's weight and bias, in place of those of the modules.
    """
    norms = [layer.bn for layer in layers]
    if parameters is None:
        parameters = [layer.parameters() for layer in layers]
    batch = uses_batch_statistics(norms[0])
    output, means, variances = norm_relu(
        maps,
        *([of_layer[i] for of_layer in parameters] for i in range(3)),
        residual,
        strides=[layer.conv.stride[0] for layer in layers],
        projection=projection,
        batches=batches,
        running_means=None if batch else [running_statistics(bn)[0] for bn in norms],
        running_vars=None if batch else [running_statistics(bn)[1] for bn in norms],
        eps=norms[0].eps,
        group=synchronised_over(norms[0]),
    )
    if batch and batches > 1:
        update_running_statistics(norms * batches, *map(_batch_by_batch, (means, variances)))
    elif batch:
        update_running_statistics(norms, means, variances)
    return output


def _batch_by_batch(layers: Sequence[Tensor]) -> list[Tensor]:
    """From (batches, C_i) by layer the vectors of all layers of the first batch, then of the second, …"""
    return [x for of_batch in zip(*layers, strict=True) for x in of_batch]


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether it is as the operator has them: square and odd, padded by zeros by half its side, ungrouped."""
    side, other = conv.kernel_size
    return (
        conv.bias is None
        and side == other
        and side % 2 == 1
        and conv.padding == (side // 2, side // 2)
        and conv.padding_mode == "zeros"
        and conv.stride[0] == conv.stride[1]
        and conv.dilation == (1, 1)
        and conv.groups == 1
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of a module runs more than its `forward`."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(map(len, hooks))
