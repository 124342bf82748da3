"""Gradients of parameters that are used several times."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode  # documented, and has no other name

from seqca.nn.sharing import shared


class Additions(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += function.overloadpacket.__name__ in ("add", "add_", "_foreach_add")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_of_all_uses_are_added_together(compiled: bool) -> None:
    tensors = [torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (2, 3, 4)]

    def loss() -> torch.Tensor:
        uses = enumerate(shared([tensors[:1], tensors[1:]], 3))
        return torch.stack([(x * (i + j)).sum() for i, use in uses for j, x in enumerate([*use[0], *use[1]])]).sum()

    function = torch.compile(loss, backend="aot_eager", fullgraph=True) if compiled else loss
    result, additions = function(), Additions()
    with additions:
        gradients = torch.autograd.grad(result, tensors)
    for j, gradient in enumerate(gradients):
        torch.testing.assert_close(gradient, torch.full_like(gradient, 3 + 3 * j))
    assert compiled or additions.count == 2


def test_without_gradients_nothing_asks_for_one() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    with torch.no_grad():
        ((use,),) = shared([[weight]], 1)
    assert not use[0].requires_grad  # or what follows modules, such as a counter of operations, takes it for a result
    assert torch.equal(use[0], weight)
