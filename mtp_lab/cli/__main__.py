"""`python -m mtp_lab.cli`, as torchrun and batches call it."""

import sys

from mtp_lab.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
