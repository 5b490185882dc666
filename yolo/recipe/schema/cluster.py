"""`cluster`: on which machines the run is started."""

from typing import Literal

from yolo.recipe.schema.fields import Auto, Count, CountOrZero, OneLine, Port, Section, setting


class ClusterSection(Section):
    """Nodes and processes."""

    nodes: Count = setting(1, unit="machines")
    """Machines; to start more than one, `yolo train` wants `hostfile`."""
    processes_per_node: Auto | Count = setting("auto", unit="processes")
    """One a GPU; `auto` is all GPUs that are found, and 2 where there is none."""
    hostfile: OneLine | None = setting(None)
    """DeepSpeed's list of machines, one `name slots=GPUs` a line."""
    backend: Auto | Literal["nccl", "gloo", "mpi"] = setting("auto")
    """Protocol of the collectives; `auto` is nccl on GPUs and gloo elsewhere."""
    master_port: Auto | Port = setting("auto", unit="TCP port")
    """Where ranks meet on the first machine; `auto` is 29500, or with one node the first from there on that is free."""
    threads_per_process: Auto | Count = setting("auto", unit="threads")
    """Threads of one rank's computation; `auto` divides the machine's cores among its processes."""
    restarts: CountOrZero = setting(10)
    """Times that `yolo train` starts the launcher again after a crash, from the newest checkpoint; counted anew when a checkpoint was written in between. 0: never."""
    least_nodes: Auto | Count = setting("auto", unit="machines")
    """After a crash, go on with the machines that answer if they are so many; `auto` is nodes: wait for those that do not."""
    profile: OneLine | None = setting(None)
    """What the planner knows of the machines and networks: a name such as 4x8xa100-100gbe, or a file that `yolo calibrate` wrote. With it a run sets what was predicted beside what it measures."""
