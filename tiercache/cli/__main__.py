"""`python -m tiercache.cli` is the `tiercache` command."""

import sys

from tiercache.cli import main

if __name__ == "__main__":
    sys.exit(main())
