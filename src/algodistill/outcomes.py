"""How a command ends: done (0), failed (1), or asked for something that cannot be (2), in one plain line."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

import httpx2
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE
from huggingface_hub.errors import HfHubHTTPError
from tqdm.auto import tqdm


class WrongInput(Exception):
    """What was asked for cannot be done as asked; the message says why and how to mend it."""


class Interrupted(Exception):
    """The user stopped the command; the message says what is saved."""


class HubUnavailable(ConnectionError):
    """The Hub cannot be reached, or failed; the message says how to continue.

    Args:
        failure (`str`): What went wrong.
        to_continue (`str`): What to do about it.
    """

    def __init__(self, failure: str, to_continue: str):
        super().__init__(f"{failure} {to_continue}")
        self.failure = failure


def raise_if_unavailable(name: str | os.PathLike[str], error: BaseException) -> None:
    """Raise a `HubUnavailable` if that is why something could not be read that is not here."""
    if failure := hub_failure(error):
        raise HubUnavailable(f"{name} is not here. {failure}", "Run the same again to continue.") from error


def hub_failure(error: BaseException) -> str | None:
    """What went wrong between here and the Hub, if an error comes from that and it may be gone a moment later."""
    if HF_HUB_OFFLINE:
        return None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            return f"The Hub at {ENDPOINT} answered {status}." if status >= 500 or status in (408, 429) else None
        # A broken pipe is that of the terminal; other connections than the Hub's there are none.
        lost = isinstance(cause, httpx2.TransportError | ConnectionError | TimeoutError)
        if lost and not isinstance(cause, BrokenPipeError):
            reason = " ".join(str(cause).split()) or type(cause).__name__
            return f"The Hub at {ENDPOINT} cannot be reached ({reason})."
        cause = cause.__cause__ or cause.__context__
    return None


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
    except HubUnavailable as error:
        return _end(1, str(error))
    except OSError as error:
        reason = hub_failure(error) or f"{error}."
        return _end(1, f"{reason} What was complete is kept: mend it and run the same command again to continue.")
    return 0


def stopped(message: str) -> int:
    """Say that the user has stopped a command; returns the exit code."""
    return _end(1, message)


def _end(code: int, message: str) -> int:
    # Several processes fail of the same; one of them says so.
    if int(os.environ.get("RANK", "0")) == 0:
        for bar in list(getattr(tqdm, "_instances", [])):
            bar.close()  # Else the line would begin behind it.
        print(f"algodistill: {' '.join(message.split())}", file=sys.stderr)
    return code
