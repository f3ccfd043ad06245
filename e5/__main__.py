"""The command line as a module: `python -m e5 gateway` is `e5 gateway`."""

import sys

from e5.cli import main

if __name__ == "__main__":
    sys.exit(main())
