"""What a training step asks a GPU to launch, counted without one: the page docs/launches.md.

A step is the forward pass, the losses and the gradients of all parameters, without the optimiser.
"""

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import triton
from torch import Tensor, nn

from seqca import use_backend
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.tasks import get_task

from .cases.published.network import PublishedNetwork
from .cases.published.objective import published_objective
from .cases.shapes import Dataset, nyud
from .harness.launches import LaunchCounter, Launched, choices_of_a_gpu
from .network_parts import BETWEEN, HEADS, LOSSES, PARTS, follow
from .report.tables import LABELS, NOTHING, markdown

PROVIDERS = ("published", "reference", "auto")
BATCH = 8
TASKS = {2: ("semseg", "depth"), 4: ("semseg", "depth", "normals", "edge")}
"""By number."""

MOST = 24
"""Rows of the table of what is launched most often."""


@cache
def launches(provider: str, tasks: int) -> Counter[Launched]:
    """Those of a training step of a provider with so many tasks."""
    data = nyud(BATCH)
    return followed(provider, data._replace(tasks={task: data.tasks[task] for task in TASKS[tasks]})).counts


def followed(provider: str, data: Dataset, dtype: torch.dtype = torch.float32) -> LaunchCounter:
    """A training step of a provider on tensors without values, all but batch norms of the dtype as under autocast."""
    with torch.device("meta"):
        net, objective = _network(provider, data)
        for module in net.modules():
            if not isinstance(module, nn.BatchNorm2d):
                module._apply(lambda x: x.to(dtype) if x.is_floating_point() else x, recurse=False)
        images, targets = torch.empty(data.batch, 3, data.height, data.width, dtype=dtype), _targets(data)
    counter = LaunchCounter()
    follow(net, counter.parts)
    choice = (
        choices_of_a_gpu if provider == "auto" else partial(use_backend, "aten" if provider == "aten" else "reference")
    )
    with choice(), torch.no_grad():
        net(images)  # what is made in the first step alone and kept does not count
    with choice(), counter:
        counter.parts.begin(BETWEEN, images)
        output = net(images)
        counter.parts.begin(LOSSES, output)
        loss = objective(output, targets)
        counter.parts.turn(loss)
        torch.autograd.grad(loss, [x for x in net.parameters() if x.requires_grad])
    return counter


def _network(provider: str, data: Dataset) -> tuple[nn.Module, Callable[..., Tensor]]:
    """In training, and its objective."""
    if provider == "published":
        return PublishedNetwork(data.tasks).train(), published_objective
    criterion = MultiTaskLoss(data.tasks)
    net = SequentialCrossAttentionNet(data.tasks, drop_path=0.0).train()
    return net, lambda output, targets: criterion(output, targets).total


def _targets(data: Dataset) -> dict[str, Tensor]:
    sides = (data.height, data.width)
    return {
        task: torch.empty(data.batch, *sides, dtype=torch.int64)
        if get_task(task).labels.integer
        else torch.empty(data.batch, channels, *sides)
        for task, channels in data.tasks.items()
    }


def page() -> str:
    """docs/launches.md."""
    return f"""# Launches of a training step

Made by `python -m benchmarks launches > docs/launches.md` with torch {torch.__version__} and
Triton {triton.__version__}: counted on tensors without values; nothing is computed or measured. One launch is a torch
operator that works on values, inside custom operators too, or a launch of a Triton kernel. Views and allocations
are left out. Of torch's operators some launch several kernels, such as a batch norm, so a profiler sees more.

Forward pass, losses and gradients of all parameters, without the optimiser: {BATCH} images of 480×640, float32 (under
autocast casts come on top), operators on the backends that a GPU gets by default, without the CUDA C++ extension.

{_totals()}

## By part, with {max(TASKS)} tasks

{_by_part(max(TASKS))}

## What `seqca` launches most, with {max(TASKS)} tasks

{_most(max(TASKS))}"""


def share(provider: str, tasks: int) -> float:
    """Launches of a provider as a multiple of the published sequence's."""
    return launches(provider, tasks).total() / launches("published", tasks).total()


def _totals() -> str:
    rows = [
        [LABELS[provider], *(f"{launches(provider, n).total():,} ({share(provider, n):.2f}×)" for n in TASKS)]
        for provider in PROVIDERS
    ]
    rows.append(["of which Triton kernels", *(f"{_number(launches('auto', n), triton=True):,}" for n in TASKS)])
    return markdown(["", *(f"{n} tasks" for n in TASKS)], rows)


def _by_part(tasks: int) -> str:
    columns = [(x, direction) for x in PROVIDERS for direction in ("forward", "backward")]
    header = ["", *(f"{LABELS[x]}, {direction}" for x, direction in columns), "of which Triton kernels"]
    rows = [
        [
            part,
            *(f"{_number(launches(x, tasks), part=part, direction=direction):,}" for x, direction in columns),
            f"{_number(launches('auto', tasks), part=part, triton=True):,}",
        ]
        for part in (*PARTS, BETWEEN, HEADS, LOSSES)
    ]
    return markdown(header, rows)


def _most(tasks: int) -> str:
    """Torch operators and kernels by number, with the parts in which they are."""
    found = launches("auto", tasks)
    by_name: Counter[str] = Counter()
    for launched, number in found.items():
        by_name[launched.name] += number
    columns = (*PARTS, BETWEEN, HEADS, LOSSES)
    rows = [
        [f"`{name}`", f"{number:,}", *(_or_nothing(_number(found, name=name, part=part)) for part in columns)]
        for name, number in by_name.most_common(MOST)
    ]
    return markdown(["", "all", *columns], rows)


def _or_nothing(number: int) -> str:
    return f"{number:,}" if number else NOTHING


def _number(counts: Counter[Launched], **fields: Any) -> int:
    """Of those launches that have these fields."""
    return sum(number for x, number in counts.items() if all(getattr(x, key) == y for key, y in fields.items()))
