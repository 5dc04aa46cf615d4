"""Arguments whose errors take one line."""

import argparse
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """Raises `ValueError` for a wrong argument instead of printing a usage of many lines."""

    def error(self, message: str) -> NoReturn:
        """Raises."""
        raise ValueError(f"{message}; see {self.prog} --help")
