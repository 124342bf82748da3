"""Gradients of tensors that stand in the lists of a custom operator more than once."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # documented, and has no other name

from seqca.ops import linear_attention, use_backend


class Additions(TorchDispatchMode):
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += function.overloadpacket.__name__ in ("add", "add_", "_foreach_add")
        return function(*args, **(kwargs or {}))


def attended(q: list[Tensor], k: list[Tensor], v: list[Tensor]) -> Tensor:
    with use_backend("aten"):
        return torch.stack(linear_attention(q, k, v)).square().sum()


def test_a_tensor_that_stands_several_times_gets_the_sum_of_its_gradients_in_few_additions() -> None:
    q, k, v = (torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    other = torch.rand(2, 5, 3, dtype=torch.float64, requires_grad=True)
    lists = [q, q, other, q], [k, other, k, k], [v, v, v, v]
    apart = [[x.detach().clone().requires_grad_() for x in tensors] for tensors in lists]
    attended(*apart).backward()
    additions = Additions()
    with additions:
        found = torch.autograd.grad(attended(*lists), (q, k, v, other))
    for x, gradient in zip((q, k, v, other), found, strict=True):
        expected = sum(
            copy.grad for own, given in zip(apart, lists, strict=True)
            for copy, y in zip(own, given, strict=True) if y is x and copy.grad is not None
        )  # fmt: skip
        torch.testing.assert_close(gradient, expected)
    assert additions.count == 3
