"""``python -m electra_ds`` is ``electra-ds``."""

import sys

from electra_ds.cli import main

if __name__ == "__main__":
    sys.exit(main())
