"""`zero`, `communication` and `cluster`: what ranks shard and exchange, and the machines they run on."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from yolo.recipe.schema.fields import (
    Auto,
    Count,
    CountOrZero,
    Duration,
    Momentum,
    OneLine,
    Port,
    Rate,
    Section,
    Stage,
    setting,
    whole,
)

Reducer = Literal["deepspeed", "overlapped", "powersgd"]
Backend = Literal["nccl", "gloo", "mpi", "xccl", "ucc"]
StartStep = Annotated[int, Field(ge=2, le=10**10), BeforeValidator(whole)]


class ZeroSection(Section):
    """DeepSpeed's `zero_optimization`. YOLOv5 rarely needs it for memory, and every stage above 0 sends more."""

    stage: Stage = setting(0)
    """Sharded among the ranks: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters."""
    overlap_comm: Auto | bool = setting("auto")
    """Exchange gradients while backward still computes. `auto` is true from stage 1 on; no effect at stage 0."""
    reduce_bucket_size: Auto | Count = setting("auto", unit="elements")
    """Gradients gathered before they are sent. `auto` fits the network; DeepSpeed's 5e8 never fills with one this small."""
    contiguous_gradients: bool = setting(True)
    """Copy gradients into one buffer as they are produced."""
    use_multi_rank_bucket_allreduce: bool = setting(True)
    """true: all-reduce each bucket (two volumes). false: one reduce to each owner (one volume, more messages). Stages 1 and 2."""
    round_robin_gradients: bool = setting(False)
    """Spread the copying of gradients over the ranks; stages 1 and 2."""
    offload_optimizer: Literal["none", "cpu"] = setting("none")
    """Keep the optimizer's state in host memory. Stages 1 to 3, AdamW, and a compiler on every host."""
    stage3_param_persistence_threshold: Auto | CountOrZero = setting("auto", unit="elements")
    """Parameters smaller than this are not sharded; stage 3. `auto` keeps BatchNorm, biases and small convolutions on every rank."""
    stage3_prefetch_bucket_size: Auto | CountOrZero = setting("auto", unit="elements")
    """Parameters fetched before they are used; stage 3. `auto` is reduce_bucket_size."""


class CommunicationSection(Section):
    """What ranks send over the network, when, and how long it may take."""

    reducer: Reducer = setting("deepspeed")
    """What averages gradients. `deepspeed`: as `zero` says, at stage 0 in one piece after backward. `overlapped`: stage 0 only, bucket by bucket during backward. `powersgd`: stage 0 only, after backward, each gradient matrix as two matrices of powersgd_rank columns."""
    data_type: Auto | Literal["fp32", "bf16", "fp16"] = setting("auto")
    """Number format of gradients on the wire. `auto` is fp32 at stage 0, and precision.dtype from stage 1 on (DeepSpeed allows no other there)."""
    bucket_size: Auto | Count = setting("auto", unit="elements", only_for=["reducer overlapped"])
    """Gradients sent together by the reducer overlapped. `auto` makes at least 8 buckets of the network, of 25 MiB at most."""
    powersgd_rank: Count = setting(2, only_for=["reducer powersgd"])
    """Columns of the two matrices that approximate a gradient matrix."""
    powersgd_start_step: Auto | StartStep = setting(
        "auto", unit="steps", only_for=["reducer powersgd"]
    )
    """Steps of plain averaging before PowerSGD begins. `auto` is the end of the learning rate's warm-up, at least 10; torch's PowerSGD needs at least 2."""
    sync_every: Count = setting(1, unit="steps")
    """Local steps per rank between two averagings of the weights (local SGD, DiLoCo); 1 averages the gradients of each step. A round also ends with its epoch. Within a round no step waits for another rank: the loss is normalised by the rank's own boxes."""
    outer_lr: Auto | Rate = setting("auto", only_for=["sync_every above 1"])
    """If sync_every is above 1: factor on the ranks' mean change of the weights since the last sync. `auto` is 1 below 100 steps, and DiLoCo's 0.7 from there on."""
    outer_momentum: Auto | Momentum = setting("auto", only_for=["sync_every above 1"])
    """If sync_every is above 1: Nesterov momentum of that outer step. `auto` is 0 below 100 steps, which with outer_lr 1 averages the weights, and DiLoCo's 0.9 from there on."""
    outer_one_bit: bool = setting(False, only_for=["sync_every above 1"])
    """If sync_every is above 1: send the change at one bit per element, with error feedback."""
    check_weights_every: CountOrZero = setting(0, unit="steps")
    """Compare a hash of the weights between ranks every this many steps; stop and name what differs. 0: only at the start and at each checkpoint. With local steps: at the next sync. No effect at zero.stage 3, where ranks hold shards."""
    timeout_seconds: Duration = setting(600.0, unit="seconds")
    """A collective that takes longer ends the launch and names the missing ranks and the phase of each; `yolo train` then starts again (cluster.restarts)."""


class ClusterSection(Section):
    """Nodes and processes."""

    nodes: Auto | Count = setting("auto", unit="machines")
    """Machines: the first of `hostfile`. `auto` is all of them; without a hostfile 1, this machine."""
    processes_per_node: Auto | Count = setting("auto", unit="processes")
    """One per GPU. `auto` is the slots in `hostfile`; without one, all GPUs of this machine, or 2 on CPUs."""
    hostfile: OneLine | None = setting(None)
    """DeepSpeed's list of machines, one `name slots=GPUs` per line; they are reached by ssh."""
    accelerator: Auto | Literal["cuda", "cpu"] = setting("auto")
    """What ranks compute on. `auto` is cuda with a hostfile, whose slots are GPUs; else what this machine has. DS_ACCELERATOR=cpu in the environment means cpu."""
    backend: Auto | Backend = setting("auto")
    """Backend of the collectives. `auto` is nccl on GPUs, else gloo. mpi is over mpi4py and needs requirements-mpi.txt; xccl and ucc a torch that was built with them. `yolo check` says which this machine can run."""
    launcher: Auto | Literal["pdsh", "openmpi", "mpich", "slurm"] = setting("auto")
    """What starts the ranks. pdsh: the deepspeed launcher, which needs pdsh only for several machines. openmpi, mpich: that MPI's mpiexec. slurm: srun. `auto` is pdsh, but with backend mpi that of the installed MPI."""
    master_port: Auto | Port = setting("auto", unit="TCP port")
    """Rendezvous port on the first machine. `auto` is the first free one from 29500 on; if another run takes it, the next."""
    threads_per_process: Auto | Count = setting("auto", unit="threads")
    """CPU threads per rank. `auto` divides each machine's cores among its processes."""
    restarts: CountOrZero = setting(10)
    """Times that `yolo train` starts the launcher again after a crash, from the newest checkpoint; the count starts at 0 again after each new checkpoint. 0: never."""
    least_nodes: Auto | Count = setting("auto", unit="machines")
    """After a crash, resume if at least this many machines answer. `auto` is nodes: wait for all."""
    profile: OneLine | None = setting(None)
    """What the planner knows about the machines and networks: a name such as 4x8xa100-100gbe, or a file written by `yolo calibrate`. With it a run logs the prediction beside what it measures."""
