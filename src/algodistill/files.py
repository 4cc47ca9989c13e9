"""Files that are whole or absent, and folders that one process writes into at a time."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write to that becomes `path` only once it is complete, so that a crash never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def alone(folder: Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Wait until no other process of this machine writes into a folder, and keep others waiting; within it, the same
    process may do so again.

    Args:
        folder (`Path`): The folder, which need not be there yet.
        say (`Callable`, *optional*): Is told if there is something to wait for.
    """
    # Not in the folder, which is what is published.
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(Path(tempfile.gettempdir()) / f"algodistill-{place}.lock", is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if say is not None:
            say(f"Another process writes into {folder}: waiting for it to end.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
