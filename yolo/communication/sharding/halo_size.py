"""The columns that a layer reads beside a stripe. Needs no torch: the planner counts them too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Halo:
    """Columns that a stripe needs from its neighbours for one layer, and what stands there at the image's borders."""

    left: int
    right: int
    fill: float = 0.0

    @classmethod
    def of(cls, kernel: int, stride: int, padding: int, fill: float = 0.0) -> "Halo":
        """The halo of a layer that turns W columns into W / stride.

        ValueError if the layer turns them into another number.
        """
        if not kernel - stride <= 2 * padding < kernel:
            raise ValueError(
                f"kernel {kernel}, stride {stride}, padding {padding}: does not divide the width by its stride exactly, and "
                "cannot be sharded by columns"
            )
        return cls(padding, max(0, kernel - stride - padding), fill)

    @property
    def columns(self) -> int:
        """Both sides together."""
        return self.left + self.right
