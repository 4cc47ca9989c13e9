"""Work that is shared out to processes, and that ends with the process that wants it."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import types
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

import cloudpickle
import torch


# Seconds between two looks at how far the work has come.
LOOK_EVERY = 0.2

# In a process that works: for each piece of work, how far it has come.
_progress: Any = None


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_in_processes(
    work: Callable[..., Any], pieces: Sequence[tuple[Any, ...]], processes: int, on_progress: Callable[[int], Any]
) -> Generator[Any]:
    """Do `work(*piece, advance)` for all pieces, several at a time, and yield what it returns in their order.

    Work, pieces and results may be whatever `cloudpickle` can hold, also what the main module or a notebook defines.
    When the generator is closed, or this process ends however abruptly, the processes end too. They do not see Ctrl-C.

    Args:
        work (`Callable`): What to do; it calls its last argument, `advance()`, with every bit of progress.
        pieces (`Sequence[tuple]`): What to do it with.
        processes (`int`): The largest number of processes, one thread each.
        on_progress (`Callable`): Called, in this process, with how many bits have been added.

    Raises:
        ValueError: If a piece raised one.
        RuntimeError: If a piece raised something else, or a process died.
    """
    if not pieces:
        return
    context = multiprocessing.get_context("spawn")
    progress = context.RawArray("q", len(pieces))
    # Whatever becomes of this process, the other end of this is closed then, and it is not passed on.
    leash, end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(min(processes, len(pieces)), context, _begin, (leash, progress))
    workers: list[multiprocessing.process.BaseProcess] = []
    try:
        packed = [cloudpickle.dumps((work, piece)) for piece in pieces]
        with _starting_processes():
            others = multiprocessing.active_children()
            results = deque(executor.submit(_do, number, piece) for number, piece in enumerate(packed))
            workers += [child for child in multiprocessing.active_children() if child not in others]
        # An executor watches over a process only from the next work on that it is given.
        executor.submit(bool)
        del packed
        counted = 0
        while results:
            done, _ = wait(results, timeout=LOOK_EVERY, return_when=FIRST_EXCEPTION)
            now = sum(progress)
            on_progress(now - counted)
            counted = now
            for result in done:
                if (error := result.exception()) is not None:
                    raise error
            while results and results[0].done():
                yield cloudpickle.loads(results.popleft().result())
        executor.shutdown()
    except BrokenProcessPool:
        raise RuntimeError(
            f"One of {min(processes, len(pieces))} processes has died: it was killed, perhaps as there was not "
            "enough memory, in which case fewer processes may do."
        ) from None
    finally:
        end.close()
        # Those that are still starting do not see that yet.
        for worker in workers:
            worker.terminate()
        executor.shutdown(cancel_futures=True)
        leash.close()


@contextlib.contextmanager
def _starting_processes() -> Iterator[None]:
    """While processes are started, keep from them what is not theirs.

    Ctrl-C, which a terminal sends to all, is answered here. And the main module would be run again in each of them:
    all of a script that lacks `if __name__ == "__main__"`.
    """
    main, mask = sys.modules["__main__"], None
    if hasattr(signal, "pthread_sigmask"):
        # Started with the first process otherwise, and it lets Ctrl-C through again.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin(leash: Any, progress: Any) -> None:
    """What a process does first."""
    global _progress
    _progress = progress
    threading.Thread(target=_end_with, args=(leash,), daemon=True).start()
    torch.set_num_threads(1)
    # What there is to warn of, the process that checked the settings has warned of.
    warnings.simplefilter("ignore")


def _end_with(leash: Any) -> None:
    leash.poll(None)
    os._exit(1)


def _do(number: int, packed: bytes) -> bytes:
    """Do a piece of work."""

    def advance() -> None:
        _progress[number] += 1

    try:
        work, piece = cloudpickle.loads(packed)
        return cloudpickle.dumps(work(*piece, advance))
    except BaseException as error:
        if type(error) in (ValueError, RuntimeError):
            raise
        # It may be of a kind that cannot be sent, or that would end the other process too.
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        raise kind(f"{type(error).__name__}: {error}") from error
