"""`python -m benchmarks accelerate CHECKOUT`: the table of evidence for one code base."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..harness.environment import environment
from ..harness.results import ResultsError
from .checkouts import code_base
from .training import Size

if TYPE_CHECKING:
    from .measures import Costs

HEADER = ("tasks", "predictions", "error / allowed", "kept before", "kept after", "s before", "time after / before")


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command and its options."""
    parser = commands.add_parser(
        "accelerate",
        help="losses, memory and time of another code base's training before and after seqca.accelerate; exits 3 if its"
        " losses are not equal",
    )
    parser.add_argument("checkout", type=Path, help="folder of a checkout of the code base")
    parser.add_argument(
        "--tasks",
        action="append",
        metavar="NAME,…",
        help="of a training; repeatable; by default semseg,depth and semseg,depth,normals,edge",
    )
    sizes = {"metavar": "IMAGESxHEIGHTxWIDTH", "type": _size}
    parser.add_argument(
        "--size", default=Size(1, 480, 640), help="of the step that is measured; by default 1x480x640", **sizes
    )
    parser.add_argument(
        "--parity-size", default=Size(2, 96, 128), help="where losses are compared; by default 2x96x128", **sizes
    )
    parser.add_argument("--steps", type=int, default=30, help="of the optimiser, whose losses are compared")
    parser.add_argument("--draws", type=int, default=8, help="of the original's error, by which they are judged")
    parser.add_argument("--seconds", type=float, default=10, help="of timing each, where steps are short enough")
    parser.set_defaults(command=accelerate_command)


def accelerate_command(options: argparse.Namespace) -> int:
    """Prints what is replaced, and the table."""
    from seqca import accelerate  # which an older package under measurement may lack

    from ..report.tables import markdown
    from .measures import ORIGINAL, costs, parity

    checkout = options.checkout.resolve()
    try:
        module = code_base(checkout)
    except ValueError as error:
        raise ResultsError(str(error)) from error
    rows: list[list[str]] = []
    status = 0
    for names in options.tasks or ("semseg,depth", "semseg,depth,normals,edge"):
        small = module.build(checkout, names.split(","), options.parity_size)
        copy = small.copy()
        print(accelerate(copy.model, copy.criterion, outputs="lazy"), flush=True)
        checks = parity(small, options.steps, options.draws)
        for outputs, check in checks.items():
            print(f"{names}, {outputs}: worst {check.what}", flush=True)
        if all(check.ok for check in checks.values()):
            found = costs(module.build(checkout, names.split(","), options.size), options.seconds)
            rows += [
                [names.replace(",", ", "), outputs, f"{check.worst:.2f}", *_compared(found[ORIGINAL], found[outputs])]
                for outputs, check in checks.items()
            ]
        else:
            print(f"NO NUMBERS: the losses of {names} are not equal")
            status = 3
    print(f"\n{markdown(HEADER, rows)}\n\n{_conditions(options)}")
    return status


def _compared(before: "Costs", after: "Costs") -> list[str]:
    return [
        f"{before.kept / 1e6:,.0f} MB",
        f"{after.kept / 1e6:,.0f} MB ({after.kept / before.kept:.2f}×)",
        f"{before.time.median:.2f}",
        f"{after.time.median / before.time.median:.2f} ± {before.time.noise + after.time.noise:.0%}",
    ]


def _conditions(options: argparse.Namespace) -> str:
    where = environment("cpu")
    size, small = ("×".join(map(str, one)) for one in (options.size, options.parity_size))
    return (
        f"Losses of {options.steps} steps of Adam on batches of {small}, judged by {options.draws} draws; bytes kept"
        f" for backward and time of a step without optimiser on a batch of {size}; float32, drop path off. "
        f"{where['processor']}, {where['threads']} threads; torch {where['torch']}; commit {str(where['commit'])[:8]}"
        f"{' with changes' if where['dirty'] else ''}."
    )


def _size(text: str) -> Size:
    try:
        images, height, width = map(int, text.replace("×", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text}, expected IMAGESxHEIGHTxWIDTH, such as 1x480x640") from None
    return Size(images, height, width)
