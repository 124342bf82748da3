"""Reference numbers for the blocks and the whole network, and how to compare with them."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from seqca.models import NetworkOutput
from seqca.models.published import published_names

GOLDEN = Path(__file__).parent


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


class Block:
    """A module filled with the published-format weights of a golden file.

    `prefix` and `published` are where the module lives in the network and in the published format.
    """

    def __init__(self, module: nn.Module, name: str, prefix: str, published: str, tasks: tuple[str, ...] = ()) -> None:
        self.module, self.golden = module, load(name)
        self.prefix, self.published, self.tasks = prefix, published, tasks
        state = {key: self.collect("state", key) for key in module.state_dict()}
        module.load_state_dict({key: value for key, value in state.items() if value is not None})

    def collect(self, group: str, key: str) -> Tensor | None:
        """The golden value of `group` behind a key of the module, None where the file has none."""
        names = [name.removeprefix(self.published) for name in published_names(self.prefix + key, self.tasks)]
        pieces = [self.golden.get(f"{group}/{name}") for name in names]
        if pieces[0] is None:
            return None
        return pieces[0] if pieces[0].dim() == 0 else torch.cat(pieces)

    def inputs(self) -> dict[str, Tensor]:
        return {key[3:]: value.clone().requires_grad_() for key, value in self.golden.items() if key.startswith("in/")}

    def check(self, run) -> None:
        """Forward, gradients and running statistics in training mode, then forward in evaluation mode.

        `run` maps {input name: tensor} to {output name: tensor}.
        """
        inputs = self.inputs()
        self.module.train()
        outputs = run(inputs)
        assert outputs.keys() == {key[4:] for key in self.golden if key.startswith("out/")}
        for key, value in outputs.items():
            close(value, self.golden[f"out/{key}"], f"out/{key}")
        torch.autograd.backward(list(outputs.values()), [self.golden[f"grad_out/{key}"] for key in outputs])

        largest = max(float(value.abs().max()) for key, value in self.golden.items() if key.startswith("grad/"))
        for key, value in inputs.items():
            close(value.grad, self.golden[f"grad_in/{key}"], f"grad_in/{key}")
        for key, parameter in self.module.named_parameters():
            expected = self.collect("grad", key)
            assert (parameter.grad is None) == (expected is None), key
            if expected is not None:
                # A bias whose only reader subtracts the mean again has no gradient but rounding.
                vanishing = key == "aggregation.conv.bias" or (".projections." in key and key.endswith("bn.bias"))
                close(parameter.grad, expected, f"grad/{key}", scale=largest if vanishing else None)
        for key, buffer in self.module.named_buffers():
            if "running" in key:
                close(buffer, self.collect("after", key), f"after/{key}")

        self.module.eval()
        with torch.no_grad():
            for key, value in run(inputs).items():
                close(value, self.golden[f"eval/{key}"], f"eval/{key}")


def close(actual: Tensor, expected: Tensor, name: str, scale: float | None = None) -> None:
    """Equal to 1e-4 of the largest magnitude of the expected array, or of `scale`."""
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    scale = float(expected.abs().max()) if scale is None else scale
    error = float((actual.detach() - expected).abs().max())
    assert error <= 1e-4 * scale, f"{name}: error {error:.2e} at magnitude {scale:.2e}"


def assert_published_predictions(output: NetworkOutput, golden: dict[str, Tensor]) -> None:
    """The final and the deep predictions of a network are those of a file, all of them."""
    found = {f"final_{task}": x for task, x in output.final.items()}
    found |= {f"deep_{k}_{task}": x for k, deep in enumerate(output.deep) for task, x in deep.items()}
    assert found.keys() == {key for key in golden if key.startswith(("final", "deep"))}
    for key, x in found.items():
        close(x, golden[key], key)
