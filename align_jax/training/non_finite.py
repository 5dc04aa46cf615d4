"""What to do when a loss or a gradient is no longer a number."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class NonFinite:
    """Policy for a loss or gradient that is not a number.

    Attributes:
        action: `stop` ends the run with an error. `skip` leaves parameters, optimizer and statistics as they were and
            goes on with the next batch. `rollback` goes back to the last good checkpoint and leaves out the batches up
            to the one that failed, as PaLM's training did (Chowdhery et al., arXiv 2204.02311, section 5.1).
        limit: so many steps may be skipped, or rolled back from, over the whole run; one more ends it with an error.
    """

    action: Literal["stop", "skip", "rollback"] = "stop"
    limit: int = 10

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"limit {self.limit} is not positive; use 1 or more, or the action 'stop'")


class NonFiniteLossError(RuntimeError):
    """The loss or the gradient is no longer a number.

    Attributes:
        step: the step it happened at.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
