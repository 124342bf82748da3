"""Upsampling by products, as a GPU gets it: here on tensors of another device type, and by its matrices on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from seqca.nn import upsampling
from seqca.nn.upsampling import upsample

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [((3, 5), (6, 10)), ((3, 5), (12, 5)), ((1, 2), (8, 16)), ((2, 1), (2, 64))]


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsampling, "_INTERPOLATES", ())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_products_are_torchs_interpolation_and_so_is_their_gradient(
    by_products: None, before: tuple[int, int], after: tuple[int, int], dtype: torch.dtype
) -> None:
    x = torch.randn(2, 3, *before, dtype=dtype, device=DEVICE).requires_grad_()
    grad = torch.randn(2, 3, *after, dtype=dtype, device=DEVICE)
    found = upsample(x, after)
    expected = F.interpolate(x, after, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(y, x, grad)[0] for y in (found, expected))
    torch.testing.assert_close(*gradients)


def test_products_take_maps_of_any_strides(by_products: None) -> None:
    x = torch.randn(2, 5, 3, 4, device=DEVICE).permute(0, 2, 3, 1)
    torch.testing.assert_close(upsample(x, (8, 10)), F.interpolate(x, (8, 10), mode="bilinear", align_corners=False))


def test_products_keep_the_dtype_of_autocast(by_products: None) -> None:
    x = torch.randn(1, 2, 3, 4, device=DEVICE)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = upsample(x, (6, 8))
    assert found.dtype == torch.bfloat16
    expected = F.interpolate(x.bfloat16().float(), (6, 8), mode="bilinear", align_corners=False)
    # Two roundings, of the rows and of the result.
    torch.testing.assert_close(found.float(), expected, rtol=2 * 2**-8, atol=2**-8)


@pytest.mark.parametrize("after", [(7, 8), (3, 2), (9, 12), (6, 512)])
def test_sizes_whose_weights_are_not_exact_are_torchs(by_products: None, after: tuple[int, int]) -> None:
    x = torch.randn(1, 2, 3, 4, device=DEVICE)
    assert torch.equal(upsample(x, after), F.interpolate(x, after, mode="bilinear", align_corners=False))


def test_what_is_made_in_inference_can_be_differentiated_through(by_products: None) -> None:
    x = torch.randn(1, 2, 3, 4, device=DEVICE)
    upsampling._known.clear()
    with torch.inference_mode():
        upsample(x, (6, 8))
    upsample(x.requires_grad_(), (6, 8)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 4))


def test_matrices_of_a_mode_without_values_are_not_kept(by_products: None) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    upsampling._known.clear()
    with FakeTensorMode():
        upsample(torch.empty(1, 2, 3, 4), (6, 8))
    assert not upsampling._known


def test_a_compiler_sees_products_in_one_graph(by_products: None) -> None:
    x = torch.randn(1, 2, 3, 4, device=DEVICE)
    compiled = torch.compile(lambda x: upsample(x, (6, 8)), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), upsample(x, (6, 8)))
