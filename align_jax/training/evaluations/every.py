"""What happens now and then."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Every:
    """Something that happens now and then: at each multiple of `steps`."""

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps {self.steps} is not positive; use 1 or more")

    def due(self, step: int) -> bool:
        """Whether it happens after `step` finished steps."""
        return step % self.steps == 0
