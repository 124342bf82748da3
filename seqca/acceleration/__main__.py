"""`python -m seqca.acceleration file.py Class [method ...]` prints the fingerprint of a class."""

import sys
from pathlib import Path

from .fingerprint import file_fingerprint


def main(path: str, class_name: str, *methods: str) -> None:
    """Prints the fingerprint of methods, `forward` if none are named, that a class of a file defines."""
    try:
        print(file_fingerprint(Path(path), class_name, *methods))
    except (OSError, SyntaxError) as error:
        sys.exit(f"{path}: got no readable Python file, expected one: {error}")
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("python -m seqca.acceleration file.py Class [method ...]")
    main(*sys.argv[1:])
