"""A few steps of training as a function of the images, judged by the tolerance rule.

Over many steps rounding grows until curves part. Over a few, from weights clear of kinks and by plain descent, it stays
what the rule knows: draws of the reference say how far losses may be apart, and the gradients that the last step is
computed from. Adam would not do: it takes whole steps along gradients that are nothing but rounding.
"""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from benchmarks.cases.network import by_kinds_of_layers, clear_of_kinks
from benchmarks.harness.judging import relative_error
from seqca.losses import MultiTaskLoss
from seqca.models import SequentialCrossAttentionNet
from seqca.ops.shared.dispatch import use_backend
from seqca.ops.verification.draws import Results, allowances, as_drawn, drawn_from, exact_results, verdicts
from seqca.ops.verification.precision import without_tf32
from seqca.ops.verification.tolerance import Verdict

Batch = Mapping[str, Tensor]


class Descent:
    """From the images of some batches, one a step, to the losses of all steps and the gradients of the last one.

    Images in float64 and float32 are computed with in their dtype; those in half precision under autocast to it.

    Args:
        tasks: of the network, with their numbers of channels.
        batches: images and labels.
    """

    def __init__(self, tasks: Mapping[str, int], batches: Sequence[Batch]) -> None:
        self.tasks, self.batches = dict(tasks), batches
        self.device = batches[0]["image"].device
        torch.manual_seed(0)
        self.network = clear_of_kinks(SequentialCrossAttentionNet(self.tasks, drop_path=0.0)).to(self.device)

    def __call__(self, images: Sequence[Tensor], backend: str = "reference") -> Results:
        """Losses of every task, one number a step, and gradients by kinds of layers."""
        half = images[0].dtype.itemsize == 2
        dtype = torch.float32 if half else images[0].dtype
        autocast = torch.autocast(self.device.type, images[0].dtype) if half else nullcontext()
        net, criterion = copy.deepcopy(self.network).to(dtype), MultiTaskLoss(self.tasks)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
        curves: dict[str, list[Tensor]] = {}
        for image, batch in zip(images, self.batches, strict=True):
            labels = {task: x.to(dtype) if (x := batch[task]).is_floating_point() else x for task in self.tasks}
            optimizer.zero_grad()
            with use_backend(backend), without_tf32():
                with autocast:
                    loss = criterion(net(image.to(dtype)), labels)
                loss.total.backward()
            for task, part in loss.parts.items():
                curves.setdefault(task, []).append(part.detach())
            gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
            optimizer.step()
        losses = {f"losses of {task}": torch.stack(curve) for task, curve in curves.items()}
        return losses | by_kinds_of_layers(gradients, self.tasks)


class Judge:
    """What the reference says of the curves and gradients in a dtype, each as one vector.

    Args:
        descent: to judge.
        dtype: that it is computed in.
        draws: of the reference, an even number.
    """

    def __init__(self, descent: Descent, dtype: torch.dtype, draws: int) -> None:
        self.descent = descent
        self.images = [batch["image"].to(dtype) for batch in descent.batches]
        self.exact = exact_results(descent, self.images)
        self.allowance = allowances(drawn_from(descent, as_drawn(self.images)), relative_error, draws)

    def verdicts(self, backend: str) -> list[Verdict]:
        """On a backend."""
        found = self.descent(self.images, backend)
        return verdicts(found, self.exact, self.allowance, relative_error)
