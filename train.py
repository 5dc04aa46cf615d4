"""`python train.py …` is `align-jax train …`."""

import sys

from align_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
