"""On the path of a Python that shall find no torch: what it runs must not need it, and starts seconds earlier."""

import sys

sys.modules["torch"] = None
