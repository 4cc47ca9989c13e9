"""How a command ends: done (0), failed (1), or asked for something that cannot be (2), in one plain line."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator


class WrongInput(Exception):
    """What was asked for cannot be done as asked; the message says why and how to mend it."""


class Interrupted(Exception):
    """The user stopped the command; the message says what is saved."""


@contextlib.contextmanager
def wrong_input() -> Iterator[None]:
    """Take a `ValueError`, or a path that leads nowhere, for the user's: what is checked here came from outside."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise WrongInput(str(error)) from error


def exit_code(command: Callable[[], None]) -> int:
    """Run a command and say how it ended; a failure that is nobody's input keeps its traceback."""
    try:
        command()
    except WrongInput as error:
        return _end(2, str(error))
    except Interrupted as error:
        return _end(1, f"{error} Run the same command again to continue.")
    except KeyboardInterrupt:
        return _end(1, "Interrupted. What was complete is kept: run the same command again to continue.")
    except OSError as error:
        return _end(1, f"{error}. What was complete is kept: mend it and run the same command again to continue.")
    return 0


def _end(code: int, message: str) -> int:
    # Several processes fail of the same; one of them says so.
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"algodistill: {' '.join(message.split())}", file=sys.stderr)
    return code
