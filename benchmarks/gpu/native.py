"""What torch and this package find here; the extension, built; tiny calls of every operator on every backend."""

import argparse
import json

import torch

from benchmarks.harness.environment import environment
from seqca.ops.shared.device import checked_device
from seqca.ops.shared.dispatch import refusal, use_backend
from seqca.ops.shared.operator import OPERATORS
from seqca.ops.verification.judge import cotangents, evaluate, rounded


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.native", description=__doc__)
    parser.add_argument("--extension", action="store_true", help="build and load the extension")
    parser.add_argument("--tiny", action="store_true", help="tiny calls, for a checker of memory accesses")
    options = parser.parse_args()
    device = checked_device(None)
    if options.extension:
        extension(device)
    elif options.tiny:
        tiny(device)
    else:
        print(json.dumps(environment(device), indent=1))


def extension(device: str) -> None:
    """Builds the extension where there is a compiler and a GPU, and says with what."""
    from seqca.extension import ABSENCE, information

    if ABSENCE is not None and device == "cpu":
        print(f"not built without a GPU: {ABSENCE}")
        return
    print(json.dumps(information(), indent=1))


def tiny(device: str) -> None:
    """Forward and backward of the first sample of each operator, on 5 tokens and on 70, with 18 channels."""
    for operator in OPERATORS.values():
        sampler = next(iter(operator.samples.values()))
        for backend in ("triton", "cuda"):
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                for tokens in (5, 70):
                    generator = torch.Generator().manual_seed(0)
                    sample = rounded(sampler(tokens, 18, generator), dtype, device)
                    if refusal(operator, backend, operator.describe(**sample.arguments)):
                        continue
                    with use_backend(backend):
                        evaluate(operator.function, sample, cotangents(operator, sample, generator))
                    print(operator.name, backend, dtype, tokens, flush=True)
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
