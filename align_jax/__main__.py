"""`python -m align_jax` is the `align-jax` command."""

import sys

from align_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
