"""The command `seqca`: finds out which part of the package a subcommand needs and hands over to it."""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

# subcommand: (what it does, module that carries it out by main(arguments), extra of the package that it needs)
COMMANDS = {
    "fit": ("train a network", "seqca.training.cli", "train"),
    "validate": ("score a checkpoint on the validation set", "seqca.training.cli", "train"),
    "test": ("score a checkpoint on the test set", "seqca.training.cli", "train"),
    "predict": ("predict every task for pictures of your own", "seqca.training.predict", "train"),
}

USAGE = "\n".join([
    "usage: seqca COMMAND [options]",
    "",
    "Sequential Cross Attention multi-task networks: several dense predictions from one image.",
    "",
    *(f"  {name:<10}{summary}" for name, (summary, _, _) in COMMANDS.items()),
    "",
    "seqca COMMAND --help lists the options of a command, seqca --version tells the version.",
])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
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
    _, module, extra = COMMANDS[command]
    try:
        run = import_module(module).main
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "seqca":
            raise
        print(
            f"seqca {command} needs the module {error.name!r}, which is not installed: pip install 'seqca[{extra}]'",
            file=sys.stderr,
        )
        return 1
    return run(arguments)
