"""The command `seqca`: hands over to the part of the package that a subcommand needs, and imports no other."""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version


def train(arguments: Sequence[str]) -> int:
    from seqca.training.cli import main

    return main(arguments)


def predict(arguments: Sequence[str]) -> int:
    from seqca.inference.predict import main

    return main(arguments[1:])


def export(arguments: Sequence[str]) -> int:
    from seqca.inference.export import main

    return main(arguments[1:])


def data(arguments: Sequence[str]) -> int:
    if arguments[1:2] != ["check"]:
        print(f"seqca data: got {' '.join(arguments[1:]) or 'nothing'}, expected check", file=sys.stderr)
        return 2
    from seqca.data.check import main

    return main(arguments[2:])


def explain(arguments: Sequence[str]) -> int:
    from seqca import explain
    from seqca.configuration import IMAGE, NYUD_TASKS

    explanation, (height, width) = explain(device_of(arguments)), IMAGE
    print(f"The network's calls on one image of {height}×{width} with {len(NYUD_TASKS)} tasks, forward and backward,")
    print(f"and, of operators that it does without, one on a map of each scale:\n\n{explanation}")
    return 0


def selftest(arguments: Sequence[str]) -> int:
    from seqca import selftest

    return 0 if selftest(device_of(arguments)) else 1


def device_of(arguments: Sequence[str]) -> str | None:
    parser = argparse.ArgumentParser(prog=f"seqca {arguments[0]}", description=COMMANDS[arguments[0]][0])
    parser.add_argument("--device", help="cpu or cuda; by default cuda where there is a GPU")
    device: str | None = parser.parse_args(arguments[1:]).device

    from seqca.ops.shared.device import checked_device

    try:
        return checked_device(device)
    except ValueError as error:
        parser.error(str(error))


# name: (what it does, the function that does it, given the whole command line)
COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "fit": ("train a network", train),
    "validate": ("score a checkpoint on the validation set", train),
    "test": ("score a checkpoint on the test set", train),
    "predict": ("predict every task for pictures of your own", predict),
    "export": ("write a network as a file that runs without this package", export),
    "data": ("data check ROOT: tell what a folder of NYUD-v2 or PASCAL-Context holds", data),
    "explain": ("tell which backend each operator would use here, and why not the others", explain),
    "selftest": ("judge every operator on every backend that can run here", selftest),
}

USAGE = "\n".join([
    "usage: seqca COMMAND [options]",
    "",
    "Sequential Cross Attention multi-task networks: several dense predictions from one image.",
    "",
    *(f"  {name:<10}{summary}" for name, (summary, _) in COMMANDS.items()),
    "",
    "seqca COMMAND --help lists the options of a command, --debug shows where an error came from,",
    "seqca --version tells the version.",
])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files and units, whatever the terminal can show
            stream.reconfigure(errors="backslashreplace")
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    if command == "--version":
        print(f"seqca {version('seqca')}")
        return 0
    if command not in COMMANDS:
        print(f"seqca: unknown command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    # A user's own data sets and tasks are found where the command is run, as they are by `python -m seqca`.
    sys.path.append(os.getcwd())
    try:
        return COMMANDS[command][1](arguments)
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"seqca {command}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if debug:
            raise
        if not isinstance(error, ModuleNotFoundError) or (error.name or "seqca").split(".")[0] == "seqca":
            from seqca.messages import report

            print(report(command, error), file=sys.stderr)
            return 1
        print(
            f"seqca {command} needs the module {error.name!r}, which is not installed; the extra `train` brings it: "
            "pip install '.[train]' in a checkout",
            file=sys.stderr,
        )
        return 1
