"""The kernels of a training step that are compiled ahead: each that the step launches, and each once."""

import torch
from seqca.kernels.launch import Launch
from seqca.kernels.softplus.kernels import softplus_forward

from benchmarks.cases.shapes import nyud
from benchmarks.gpu.compilation import _described, compilations
from benchmarks.launches import followed


def test_every_kernel_of_the_step_is_there_in_half_precision() -> None:
    data = nyud(1)
    data = data._replace(height=64, width=64, tasks={task: data.tasks[task] for task in ("semseg", "depth")})
    found = compilations(data, torch.float16)
    launched = {launch.kernel.fn.__name__ for launch in followed("auto", data, torch.float16).kernels}
    assert {job.kernel for job in found} == launched
    assert len(set(found)) == len(found)
    assert torch.float16 in {x for job in found for _, x in job.arguments}


def test_sizes_for_which_triton_compiles_the_same_are_one() -> None:
    def described(size: int) -> object:
        arguments = {"x": torch.empty(size, device="meta"), "sizes": (size, 2), "ROWS": 64}
        return _described(Launch(softplus_forward, (1,), arguments, {}))

    assert described(32) == described(64)
    assert described(33) == described(35)
    assert len({described(1), described(32), described(33)}) == 3


def test_constants_are_compiled_for_one_by_one() -> None:
    jobs = [_described(Launch(softplus_forward, (1,), {"sizes": (5, 5), "ROWS": rows}, {})) for rows in (64, 128)]
    assert jobs[0] != jobs[1]
