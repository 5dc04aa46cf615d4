"""Converts weights; the same as `align-jax convert`. See `python convert_weights.py --help`."""

import sys

from align_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
