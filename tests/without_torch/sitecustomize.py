"""On the path of a Python that shall find no torch: what it runs must not need it, and starts seconds earlier."""

import sys
from importlib.machinery import PathFinder


class PathFinderWithoutTorch(PathFinder):
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        return None if fullname == "torch" else super().find_spec(fullname, path, target)


sys.meta_path[sys.meta_path.index(PathFinder)] = PathFinderWithoutTorch
