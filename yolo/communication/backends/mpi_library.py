"""MPI's library as mpi4py loads it, but not finalized by itself: after an error MPI would wait for the other ranks."""

import mpi4py

mpi4py.rc.finalize = False

from mpi4py import MPI  # noqa: E402  # the setting counts when this is imported

__all__ = ["MPI"]
