"""The processes of a run: who this one is, how they meet, and what makes them compute the same twice."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from runtime import imports
from runtime.errors import ArgumentError, TrainError
from shards.counted import counted

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

STORE = "MIXC_STORE"
"""Variable with the file through which the processes of runtime.launch meet."""

SCHEDULER = "MIXC_PLACE"
"""Variable by which a batch script says that its processes learn their place from the scheduler: `slurm`. Never
guessed: a trainer started by hand inside an allocation is one process, whatever Slurm's variables say."""

_TIMEOUT = timedelta(minutes=30)
"""Of a collective. A checkpoint's slowest write must fit in it: where a run ends, or saves again, processes wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among those of the run."""

    rank: int
    world: int
    local_rank: int
    local_world: int

    @property
    def first(self) -> bool:
        return self.rank == 0


_VARIABLES = {"rank": "RANK", "world": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_world": "LOCAL_WORLD_SIZE"}


_SLURM = {
    "rank": "SLURM_PROCID",
    "world": "SLURM_NTASKS",
    "local_rank": "SLURM_LOCALID",
    "local_world": "SLURM_NTASKS_PER_NODE",
}


def variables(place: Place) -> dict[str, str]:
    """A place as torchrun says it, in the environment."""
    return {name: str(getattr(place, field)) for field, name in _VARIABLES.items()}


def ask_scheduler() -> None:
    """Where a batch script says so, set the variables that torchrun sets to what the scheduler's say.

    Raises ArgumentError when it is another scheduler than Slurm, or Slurm has not started this process.
    """
    scheduler = os.environ.get(SCHEDULER)
    if not scheduler:
        return
    if scheduler != "slurm":
        raise ArgumentError(f"{SCHEDULER} is {scheduler!r}", where="environment", mend="set it to slurm, or unset it")
    missing = [name for name in _SLURM.values() if name not in os.environ]
    if missing:
        raise ArgumentError(
            f"{SCHEDULER} is slurm, but {' and '.join(missing)} is not set",
            where="environment",
            mend="start the trainer with srun in a job that says --ntasks-per-node, as the script of "
            "`mixc train --launcher slurm --dry-run` does",
        )
    os.environ.update({_VARIABLES[field]: os.environ[name] for field, name in _SLURM.items()})


def place() -> Place:
    """From the variables that torchrun sets; one process alone without them. Raises ArgumentError when only
    some are, or what they say cannot be."""
    found = {field: os.environ.get(name) for field, name in _VARIABLES.items()}
    if found["rank"] is None and found["world"] is None:
        return Place(rank=0, world=1, local_rank=0, local_world=1)
    missing = [_VARIABLES[field] for field, value in found.items() if value is None]
    if missing:
        raise ArgumentError(
            f"RANK or WORLD_SIZE is set, but {' and '.join(missing)} is not",
            where="environment",
            mend="start several processes with `mixc train --nproc N` or torchrun, or unset them",
        )
    said = " ".join(f"{_VARIABLES[field]}={value}" for field, value in found.items())
    if not all(value and value.isascii() and value.isdigit() for value in found.values()):
        raise ArgumentError(f"not a place among processes: {said}", where="environment")
    place = Place(**{field: int(value) for field, value in found.items() if value is not None})
    if not (place.rank < place.world and place.local_rank < place.local_world <= place.world):
        raise ArgumentError(f"not a place among processes: {said}", where="environment")
    return place


def prepare() -> None:
    """Set what torch and DeepSpeed read only once. Before DeepSpeed is imported."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may differ from run to run
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what it would find, after a warning


def device(place: Place) -> torch.device:
    """`cuda:<local rank>`, or the CPU where there is no GPU or DS_ACCELERATOR says cpu."""
    import torch

    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return torch.device("cpu")
    if place.local_world > torch.cuda.device_count():
        raise ArgumentError(
            f"{counted(place.local_world, 'process')}, but {counted(torch.cuda.device_count(), 'GPU')} here",
            mend="start one process a GPU, or set DS_ACCELERATOR=cpu",
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", place.local_rank)


def threads(place: Place) -> int:
    """Threads of one operation on the CPU: OMP_NUM_THREADS, or this process's part of the cores it may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, len(os.sched_getaffinity(0)) // place.local_world)


def compute_repeatably(threads: int) -> None:
    """Same weights, same packs, same machine and same number of threads: same bits.

    A reduction over several threads depends on how many there are, so the number is part of the run
    (run.json) and a resumed run takes it over. On a GPU an operation that has no deterministic form still
    runs, with a warning.
    """
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a debugging aid that costs a pass over memory
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def join(place: Place, device: torch.device) -> None:
    """Meet the other processes: gloo between CPUs, NCCL between GPUs.

    DeepSpeed's own all-reduce through shared memory is switched off: it is compiled on first use for about
    half a minute, fails where there is no C++ compiler or ninja, and waits for ever on a lock file that a
    killed compilation has left. gloo gives the same sums. Raises TrainError when they cannot meet.
    """
    import deepspeed
    import deepspeed.ops
    import torch.distributed

    imports.muon()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that torch has begun to rename: said once a call, and not the user's to mend
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        for name, value in variables(place).items():
            os.environ.setdefault(name, value)  # DeepSpeed looks there too
        meeting: dict[str, Any] = {}  # as torchrun has it: at MASTER_ADDR and MASTER_PORT
        if STORE in os.environ:
            meeting["store"] = torch.distributed.FileStore(os.environ[STORE], place.world)
        elif place.world == 1:
            meeting["store"] = torch.distributed.HashStore()
        elif missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]:
            raise ArgumentError(
                f"{place.world} processes, but {' and '.join(missing)} is not set",
                where="environment",
                mend="start them with `mixc train` or torchrun",
            )
        try:
            torch.distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                rank=place.rank,
                world_size=place.world,
                timeout=_TIMEOUT,
                device_id=device if device.type == "cuda" else None,
                **meeting,
            )
        except torch.distributed.DistError as error:
            raise TrainError(
                "the processes do not meet",
                where=f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}",
                why=str(error).partition("\n")[0],
                mend="the first process's machine must be reachable there by all, and the port free: --master-addr, "
                "--master-port; on several networks name the one to use: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME",
            ) from None
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "0")
    deepspeed.init_distributed(dist_init_required=False, auto_mpi_discovery=False, verbose=False)


def leave() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def barrier() -> None:
    import torch.distributed

    torch.distributed.barrier()


def gather(value: T) -> list[T]:
    """Every process's `value`, by rank, in every process."""
    import torch.distributed

    values: list[T] = [value] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def from_first(value: T | None) -> T:
    """The first process's `value`, in every process."""
    import torch.distributed

    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]  # type: ignore[return-value]
