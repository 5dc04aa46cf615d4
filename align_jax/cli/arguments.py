"""Arguments whose errors take one line, and those that several commands have."""

import argparse
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """Raises `ValueError` for a wrong argument instead of printing a usage of many lines."""

    def error(self, message: str) -> NoReturn:
        """Raises."""
        raise ValueError(f"{message}; see {self.prog} --help")


def add_beam(parser: argparse.ArgumentParser) -> None:
    """Adds `--beam`, once for each option of Apache Beam; `None` where it is not given."""
    parser.add_argument(
        "--beam", action="append", metavar="OPTION",
        help="run on Apache Beam with this option, such as --runner=DirectRunner (extra `beam`)",
    )  # fmt: skip
