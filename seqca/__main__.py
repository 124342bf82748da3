"""`python -m seqca` is the command `seqca`."""

import sys

from seqca.cli import main

if __name__ == "__main__":
    sys.exit(main())
