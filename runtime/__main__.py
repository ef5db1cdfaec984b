"""`python -m runtime BUILD --out RUN`: train. One process, or several under
`python -m runtime.launch`, `runtime.over_ssh`, torchrun, or Slurm's srun.

Leaves with 0 when all is trained (or `--max-steps` is reached), 1 when the run has diverged, 2 for a mistake
that the message explains, 130 or 143 when it was asked to stop and has saved. Anything else is our fault, and
shows where.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence

from runtime import imports, processes
from runtime.arguments import PROGRAM, parse
from runtime.errors import DivergedError, StoppedError, TrainError
from shards.build import Build
from shards.errors import ShardError

ERROR = "error"
"""What a mistake begins with, as all of `mixc` has it; what is none begins with the program's name."""
_FOLDERS_FAULT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES}
_MEND = "make room, or give a folder that can be written; what is saved stays good: --resume goes on from it"


def main(argv: Sequence[str] | None = None) -> int:
    """The program, but for leaving. Returns its exit status."""
    try:
        processes.ask_scheduler()
        arguments = parse(argv)
        build = Build.open(arguments.build)
        with imports.kept():
            processes.prepare()
            # not before: it imports torch and DeepSpeed, which `--help` and a mistaken path need not wait for
            from runtime.loader import load_kernels
            from runtime.train import train

            load_kernels()

        train(arguments, build)
        return 0
    except TrainError as error:
        # what all processes agree on is said once
        if os.environ.get("RANK", "0") == "0" or not isinstance(error, DivergedError | StoppedError):
            _say(error, PROGRAM if isinstance(error, StoppedError) else ERROR)
        return error.status
    except ShardError as error:
        _say(error)
        return 2
    except OSError as error:
        if error.errno not in _FOLDERS_FAULT:
            raise
        _say(TrainError("cannot write", where=str(error.filename or ""), why=str(error.strerror), mend=_MEND))
        return 2
    except KeyboardInterrupt:
        _say("interrupted; go on from the last checkpoint with --resume", PROGRAM)
        return 128 + signal.SIGINT


def _say(what: object, kind: str = ERROR) -> None:
    rank = os.environ.get("RANK", "0")
    print(f"{kind}: " + (f"process {rank}: " if rank != "0" else "") + str(what), file=sys.stderr, flush=True)


if __name__ == "__main__":
    status = main()
    if status == 0:
        processes.leave()
    # Not by the interpreter's way out. After a failure it could wait for the others, who may be waiting for us in a
    # collective; and after success gloo's threads, still letting go of tensors, sometimes abort in it:
    # github.com/pytorch/pytorch/issues/190489
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
