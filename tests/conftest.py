"""What every test relies on."""

import os
from collections.abc import Iterator

# The compiler's caches do not know the bodies of custom operators: they can serve the backward of another version.
# torch reads this when it is imported.
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

# cuBLAS is deterministic, and may be used in deterministic mode, with a workspace of fixed size.
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

import pytest
import torch

# cuDNN's convolutions, which `norm_relu` computes with, are deterministic where they are asked to be.
torch.backends.cudnn.deterministic = True

# Triton reads this when it is imported: without a GPU its kernels run in the interpreter, on the CPU. With one they are
# compiled, some 600 variants: several processes (`make test WORKERS=8`) share them through Triton's cache on the disk.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    from .interpreter import replace_functions_once_a_launch

    replace_functions_once_a_launch()

# As many workers as cores: one thread each, in the processes that tests start too. The number of threads decides the
# order of sums, so that a run and its continuation must agree in it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


@pytest.fixture
def poison() -> Iterator[None]:
    """Fills whatever is allocated with NaN; refuses operations that torch knows not to be deterministic.

    That mode also refuses what the reference needs on a GPU: `seqca.ops.verification` leaves it around the reference.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(False)
