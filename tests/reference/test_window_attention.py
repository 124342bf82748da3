"""Constants of window attention."""

import pytest
import torch

from seqca.reference.window_attention import region_bias, relative_position_bias, relative_position_index


@pytest.mark.parametrize("window", [1, 3, 7])
def test_the_relative_position_bias_is_the_table_at_the_index_of_each_pair(window: int) -> None:
    table = torch.randn((2 * window - 1) ** 2, 5, dtype=torch.float64, requires_grad=True)
    found = relative_position_bias(table, window)
    expected = table[relative_position_index(window)].permute(2, 0, 1)
    assert torch.equal(found, expected)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((x * weights).sum(), table)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("height", "width", "window", "shift"), [(7, 7, 7, 3), (14, 21, 7, 3), (6, 9, 3, 1)])
def test_pairs_are_told_apart_that_only_the_shift_made_neighbours(
    height: int, width: int, window: int, shift: int
) -> None:
    bias = region_bias(height, width, window, shift, torch.zeros((), dtype=torch.float16))
    assert bias.dtype == torch.float16 and bias.shape == (height * width // window**2, window**2, window**2)

    def region(window_index: int, token: int) -> tuple[int, int]:
        """Bands of a token, as the docstring has them."""
        per_row = width // window
        y = window_index // per_row * window + token // window
        x = window_index % per_row * window + token % window
        return tuple((p >= n - window) + (p >= n - shift) for p, n in ((y, height), (x, width)))

    for index in range(len(bias)):
        for i in range(window**2):
            for j in range(window**2):
                assert bias[index, i, j] == (0 if region(index, i) == region(index, j) else -100)
