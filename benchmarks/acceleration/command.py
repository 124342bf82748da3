"""`python -m benchmarks accelerate CHECKOUT`: the evidence for one code base."""

import argparse
from collections import Counter
from pathlib import Path
from types import ModuleType

from torch import Generator

from seqca.configuration import NYUD_TASKS

from ..harness.environment import environment
from ..harness.results import ResultsError
from .checkouts import code_base
from .results import SECTIONS, Found, nothing, opened, save
from .training import Size, SizeError, Training


def add_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command and its options."""
    parser = commands.add_parser(
        "accelerate",
        help="losses, memory and time of another code base's training before and after seqca.accelerate; exits 3 if its"
        " losses are not equal, or if classes that it is known for are not recognised or parts not replaced",
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
    parser.add_argument(
        "--steps", type=int, default=30, help="of the optimiser, whose losses are compared; 0 to measure alone"
    )
    parser.add_argument("--draws", type=int, default=8, help="of the original's error, by which they are judged")
    parser.add_argument(
        "--seconds",
        type=float,
        default=10,
        help="of timing each, where steps are short enough; 0 where the machine has other work to do",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="JSON file to add this to, as in benchmarks/results/acceleration",
    )
    parser.set_defaults(command=accelerate_command)


def accelerate_command(options: argparse.Namespace) -> int:
    """Prints what is replaced, and the tables; adds what was found to a file, if one is named."""
    from seqca import accelerate  # which an older package under measurement may lack

    from ..report.acceleration import tables
    from .measures import costs, parity
    from .recognition import unrecognised

    _check(options)
    checkout = options.checkout.resolve()
    try:
        module = code_base(checkout)
    except ValueError as error:
        raise ResultsError(str(error)) from error
    added_to = None if options.output is None else opened(options.output, module.NAME)
    found, where = nothing(module.NAME), environment("cpu")
    status = 0
    if unknown := unrecognised(checkout, module.CLASSES):
        print(f"NOT RECOGNISED: no file has one of the known fingerprints of {', '.join(unknown)}", flush=True)
        status = 3
    for names in options.tasks or ("semseg,depth", "semseg,depth,normals,edge"):
        small = _built(module, checkout, names, "--parity-size", options.parity_size)
        large = _built(module, checkout, names, "--size", options.size)
        copy = small.copy()
        report = accelerate(copy.model, copy.criterion, outputs="lazy")
        print(report, flush=True)
        replaced = Counter(each.kind for each in report.replaced)
        if missing := [kind for kind in module.KINDS if kind not in replaced]:
            print(f"NO NUMBERS: nothing of {', '.join(missing)} is replaced")
            status = 3
            continue
        if options.steps:
            checks = parity(small, options.steps, options.draws)
            for outputs, check in checks.items():
                print(f"{names}, {outputs}: worst {check.what}", flush=True)
            if not all(check.ok for check in checks.values()):
                print(f"NO NUMBERS: the losses of {names} are not equal")
                status = 3
                continue
            found["losses"][names] = {
                "trainings": {outputs: check.worst for outputs, check in checks.items()},
                "steps": options.steps,
                "draws": options.draws,
                "size": options.parity_size,
                "environment": where,
            }
            _save(found, added_to, options.output)
        each = costs(large, options.seconds)
        measured = {"size": options.size, "environment": where}
        kept = {name: one.kept for name, one in each.items()}
        found["kept"][names] = {"trainings": kept, "replaced": dict(replaced), **measured}
        if options.seconds:
            times = {name: one.time._asdict() for name, one in each.items() if one.time is not None}
            found["time"][names] = {"trainings": times, **measured}
        _save(found, added_to, options.output)
    print(f"\n{tables([found])}")
    return status


def _check(options: argparse.Namespace) -> None:
    """Refuses what cannot be measured.

    Raises:
        ResultsError: names the option.
    """
    names = ",".join(options.tasks or NYUD_TASKS).split(",")
    if unknown := [name for name in names if name not in NYUD_TASKS]:
        raise ResultsError(f"--tasks: got {unknown[0]!r}, expected names among {', '.join(NYUD_TASKS)}")
    for option, size in (("--size", options.size), ("--parity-size", options.parity_size)):
        if min(size) < 1:
            raise ResultsError(f"{option}: got {'x'.join(map(str, size))}, expected images with pixels")
    if options.draws not in range(2, 37, 2):
        raise ResultsError(f"--draws: got {options.draws}, expected an even number from 2 to 36")
    for option, number in (("--steps", options.steps), ("--seconds", options.seconds)):
        if not number >= 0:
            raise ResultsError(f"{option}: got {number}, expected 0 or more")


def _built(module: ModuleType, checkout: Path, names: str, option: str, size: Size) -> Training:
    """A training on images of a size, which was given by an option; a step of it has been made.

    Raises:
        ResultsError: names the option; the code base takes no images of this size, or the step raises.
    """
    try:
        training: Training = module.build(checkout, names.split(","), size)
    except SizeError as error:
        raise ResultsError(f"{option}: {error}") from error
    except ModuleNotFoundError as error:
        raise ResultsError(f"checkout: got one that imports {error.name}, expected it to be installed") from error
    try:
        training.copy().losses([training.batch(Generator().manual_seed(0))])
    except Exception as error:  # whatever code of others raises, for its own reasons or for the size
        first_line = (str(error).splitlines() or [""])[0]
        raise ResultsError(
            f"checkout: got {type(error).__name__}: {first_line} from a training step on images of {option} "
            f"{'x'.join(map(str, size))}, expected one that can be made"
        ) from error
    return training


def _save(found: Found, added_to: Found | None, output: Path) -> None:
    """Adds what was found to a file, if there is one."""
    if added_to is not None:
        for section in SECTIONS:
            added_to[section] |= found[section]
        save(added_to, output)


def _size(text: str) -> Size:
    try:
        images, height, width = map(int, text.replace("×", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text}, expected IMAGESxHEIGHTxWIDTH, such as 1x480x640") from None
    return Size(images, height, width)
