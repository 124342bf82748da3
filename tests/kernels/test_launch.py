"""Lists of maps become launches: layouts, division of the work, limits of a launch."""

import pytest
import torch
from seqca.kernels import launch as launching
from seqca.kernels import linear_attention
from seqca.kernels.launch import ByArchitecture, Launch, record
from seqca.kernels.map_tables import MAX_ENTRIES, Layout, MapTable, Work, map_tables, memories, split
from torch import Tensor

from seqca.ops import softplus, use_backend


def launches(sizes: list[tuple[tuple[int, ...], int]], channels: int = 36) -> tuple[list[Launch], list[Launch]]:
    """Those of forward and of backward on maps of (leading shape, tokens)."""
    q, k, v, grad = (
        [torch.empty(*leading, tokens, channels, dtype=torch.bfloat16, device="meta") for leading, tokens in sizes]
        for _ in range(4)
    )
    with record() as forward:
        _, states = linear_attention.forward(q, k, v, 1e-12)
    with record() as backward:
        linear_attention.backward(grad, q, k, v, states, 1e-12)
    return forward, backward


def tables_of(*maps: Tensor) -> list[MapTable]:
    """The launches that read these maps."""
    first = maps[0]
    return map_tables({"x": memories(maps)}, {}, [Work(1, first.shape[-2])] * len(maps), first.element_size())


def layout(x: Tensor) -> Layout:
    (table,) = tables_of(x)
    return table.layouts["x"]


@pytest.mark.parametrize(("channels", "backward"), [(36, 2), (72, 3), (288, 3)])
@pytest.mark.parametrize("entries", [1, MAX_ENTRIES])
def test_a_list_takes_two_launches_forward_and_three_backward_at_most(
    channels: int, backward: int, entries: int
) -> None:
    sizes = [((8,), 300 * (1 + i % 3)) for i in range(entries)]
    assert tuple(map(len, launches(sizes, channels))) == (2, backward)


def test_the_arguments_of_the_longest_list_fit_into_4_kilobytes() -> None:
    def size(argument: object) -> int:
        if isinstance(argument, tuple) and not isinstance(argument, Layout):
            return sum(map(size, argument))
        return 8 if isinstance(argument, (Tensor, int)) else 0

    for group in launches([((2, 3), 10**4 + i) for i in range(MAX_ENTRIES)]):
        for launch in group:
            assert sum(size(x) for x in launch.arguments.values() if isinstance(x, tuple)) <= 4000


def test_grids_hold_many_leading_indices_on_their_first_axis() -> None:
    for group in launches([((100_000,), 4)]):
        for launch in group:
            assert launch.grid[0] >= 100_000 and launch.grid[1] < 65536 and len(launch.grid) == 2


@pytest.mark.parametrize(("warps", "wanted", "given"), [(4, None, 255), (8, 168, 168), (16, 168, 128), (32, None, 64)])
def test_the_registers_of_all_threads_of_a_program_are_there(warps: int, wanted: int | None, given: int) -> None:
    options = {"num_warps": warps} if wanted is None else {"num_warps": warps, "maxnreg": wanted}
    with record() as launches:
        launching.launch(None, (1,), torch.device("meta"), {}, **options)
    assert launches[0].options["maxnreg"] == given
    assert launches[0].options["maxnreg"] * 32 * warps <= 65536


@pytest.mark.parametrize(("architecture", "warps", "registers"), [(80, 16, 128), (90, 4, 255), (120, 16, 128)])
def test_an_option_may_be_another_on_some_architectures(architecture: int, warps: int, registers: int) -> None:
    options = {"num_warps": ByArchitecture(16, sm_90=4, sm_100=8), "num_stages": 2}
    with record(architecture=architecture) as launches:
        launching.launch(None, (1,), torch.device("meta"), {}, **options)
    chosen = launches[0].options
    assert (chosen["num_warps"], chosen["maxnreg"], chosen["num_stages"]) == (warps, registers, 2)


def test_options_are_those_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if device.index == 5 else (8, 0))
    launching.architecture_of.cache_clear()
    with record() as launches:
        for device in ("cuda:5", "cuda:6", "cpu"):
            launching.launch(None, (1,), torch.device(device), {}, num_warps=ByArchitecture(8, sm_80=2, sm_90=4))
    launching.architecture_of.cache_clear()
    assert [launch.options["num_warps"] for launch in launches] == [4, 2, 8]


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize(
    "sizes", [[(96, 19200)], [(1, 1)], [(1, 19200)], [(8, 19200), (8, 300), (1, 17)], [(10**5, 3)]]
)
def test_work_is_divided_without_gaps(sizes: list[tuple[int, int]], block: int) -> None:
    work = split(sizes, block, programs=768, most=32)
    for (_, tokens), (parts, span) in zip(sizes, work, strict=True):
        assert span % block == 0 and parts <= 32
        assert (parts - 1) * span < tokens <= parts * span


def test_large_maps_fill_the_gpu_and_no_more() -> None:
    ((parts, _),) = split([(96, 19200)], 64, programs=768, most=32)
    assert parts == 8


def test_the_layout_tells_the_contiguous_axis_and_the_width_of_loads() -> None:
    x = torch.zeros(2, 48, 36, dtype=torch.float16)
    assert layout(x) == Layout(axis=1, unit=4, address=8, wide=False)
    assert layout(torch.zeros(2, 48, 72, dtype=torch.float16)) == Layout(1, 8, 16, False)
    assert layout(torch.zeros(2, 36, 48, dtype=torch.float16).mT) == Layout(0, 8, 16, False)
    assert layout(torch.zeros(2, 36, 49, dtype=torch.float16).mT) == Layout(0, 1, 2, False)
    assert layout(torch.zeros(2, 48, 40, dtype=torch.float16)[..., 1:37]) == Layout(1, 1, 2, False)
    assert layout(x[..., ::2]) == Layout(-1, 1, 2, False)
    assert layout(x.new_zeros(()).expand(2, 48, 36)) == Layout(-1, 1, 2, False)
    assert layout(torch.empty(8, 2**22, dtype=torch.float16, device="meta")[:, ::2]).wide


def test_leading_dimensions_merge_where_memory_allows_and_are_taken_apart_where_not() -> None:
    (merged,) = tables_of(torch.zeros(2, 3, 4, 5, 6, 7))
    assert merged.programs == 120 and len(merged.sizes) == 1
    (apart,) = tables_of(torch.zeros(4, 3, 2, 6, 7).transpose(0, 2))
    assert apart.programs == 24 and len(apart.sizes) == 2
    (pairs,) = tables_of(torch.zeros(3, 6, 7).expand(5, 3, 6, 7))
    assert pairs.programs == 15 and len(pairs.sizes) == 1


def test_maps_of_different_layouts_are_launched_apart() -> None:
    x, y = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8).mT
    tables = tables_of(x, y, x)
    assert [len(table.sizes) for table in tables] == [2, 1]


def test_rows_name_the_tensors_of_a_call_and_slices_of_what_is_taken_apart() -> None:
    def firsts(x: Tensor) -> list[int]:
        return [row[0].data_ptr() - x.data_ptr() for table in tables_of(x) for row in table.arguments({"x": [x]})["x"]]

    assert firsts(torch.zeros(2, 3, 4, 5)) == [0]
    x = torch.zeros(4, 3, 2, 6, 7).transpose(0, 2)
    assert firsts(x) == [0, x.stride(0) * x.element_size()]


def test_calls_alike_are_arranged_once_and_launched_with_their_own_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    arranged: list[object] = []

    def counted(*arguments: object) -> list[MapTable]:
        arranged.append(arguments)
        return map_tables(*arguments)

    monkeypatch.setattr(linear_attention, "map_tables", counted)
    sizes = [((3,), 41), ((3,), 29)]
    first, second = launches(sizes), launches(sizes)
    assert len(arranged) == 4
    for one, other in zip((*first[0], *first[1]), (*second[0], *second[1]), strict=True):
        assert one.grid == other.grid
        assert all(x is not y for x, y in zip(tensors_of(one), tensors_of(other), strict=True))
    launches([((3,), 41), ((3,), 30)])
    assert len(arranged) == 8


def tensors_of(launch: Launch) -> list[Tensor]:
    """Those in the rows of its arguments."""
    rows = [row for x in launch.arguments.values() if isinstance(x, tuple) and not isinstance(x, Layout) for row in x]
    return [cell for row in rows for cell in row if isinstance(cell, Tensor)]


def test_recorded_launches_can_be_run_at_once_and_again() -> None:
    x = torch.linspace(-1, 1, 8)
    with record(running=True) as noted, use_backend("triton"):
        y = softplus(x)
    assert torch.allclose(y, torch.nn.functional.softplus(x))
    y.zero_()
    launching.start(noted[0], x.device)
    assert torch.allclose(y, torch.nn.functional.softplus(x))


def test_recorded_launches_are_not_run_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Launch] = []
    monkeypatch.setattr(launching, "start", lambda made, device: started.append(made))
    for running in (False, True):
        with record(running) as noted, use_backend("triton"):
            softplus(torch.ones(8))
        assert started == (noted if running else [])
