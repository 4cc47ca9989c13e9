"""Publishing: histories as a dataset, a checkpoint as a model, in a repository on the Hub."""

import contextlib
import itertools
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import get_last_checkpoint

from ..evaluation import CURVE_FILE
from ..outcomes import HubUnavailable, hub_failure
from .cards import CARD_FILE, card_metadata, merge_cards, read_json
from .dataset_card import COLLECTION_FILE, dataset_card, history_shards, plot_part, read_parts
from .model_card import is_hub_id, model_card


# What of a checkpoint's folder is published. All else stays at home: optimiser states, pickles, logs, checkpoints.
MODEL_FILES = (
    "config.json",
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*_algodistill.py",
    "settings.json",
    "in_context_evaluation*.json",
    "*.png",
    "*.gif",
    "*.mp4",
    "LICENSE*",
)
# What is taken out of a repository where it is not published again.
OUTDATED_FILES = (
    "*.parquet",
    COLLECTION_FILE,
    "*.safetensors",
    "*.safetensors.index.json",
    "in_context_evaluation*.json",
    CURVE_FILE,
)
# Waits before an upload that the network or the Hub broke off is tried again, in seconds.
RETRY_WAITS = (1.0, 4.0, 15.0)
# After so many seconds it is not tried again: some of the clients persist for minutes by themselves.
RETRY_SECONDS = 180.0
# Seconds without a sign of life after which a request counts as failed.
TIMEOUTS = httpx2.Timeout(120.0, connect=15.0)


Result = TypeVar("Result")


@dataclass
class Publication:
    """What has been published.

    Attributes:
        url (`str`): Where it can be seen: the repository's page, or the pull request's.
        repo_id (`str`): The repository, with its namespace.
        repo_type (`str`): `"model"` or `"dataset"`.
        commit (`str`): The commit that holds it.
        changed (`bool`): Whether anything was new.
        left_out (`list[str]`): What lies in the folder and was not published.
    """

    url: str
    repo_id: str
    repo_type: str
    commit: str
    changed: bool
    left_out: list[str]


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dataset: str | None = None,
    token: str | None = None,
    message: str | None = None,
) -> Publication:
    """Publish a folder of learning histories as a dataset, or a checkpoint's as a model, with its card.

    Only what has changed is uploaded. A card that is in the repository already keeps what was written into it by
    hand. Nothing in the folder is changed. What the network or the Hub breaks off is tried again a few times; files
    that have arrived are not sent again, then or when this is called anew.

    Args:
        folder (`str` or `Path`): The folder.
        repo_id (`str`): The repository, `"USER/NAME"`; created if there is none.
        private (`bool`, *optional*, defaults to `False`): Whether a repository that is created is private.
        revision (`str`, *optional*): Branch to publish to, created if there is none; by default the main one.
        create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request instead.
        dataset (`str`, *optional*): For a checkpoint, the Hub id of the histories that it was trained on; by default
            what its training was told.
        token (`str`, *optional*): Token of the Hub; by default the one that `hf auth login` or `HF_TOKEN` left.
        message (`str`, *optional*): Title of the commit.

    Raises:
        ValueError: If the folder holds neither, or both, or is not complete; if there is no token, or it has no right
            to write; if the repository is public where a private one is asked for.
        HubUnavailable: If the Hub cannot be reached or fails, in spite of being asked several times.
    """
    folder = Path(folder)
    repo_type = kind_of_folder(folder)
    if create_pr and revision is not None:
        raise ValueError("A pull request is opened against the main branch: give either create_pr or a revision.")
    if dataset is not None and not is_hub_id(dataset):
        raise ValueError(
            f"{dataset!r} is not the id of a dataset on the Hub: expected USER/NAME"
            f"{', and found a folder of that name here' if Path(dataset).exists() else ''}."
        )
    api = HfApi(token=token)
    options = {"--private": private, "--revision": revision, "--create-pr": create_pr, "--dataset": dataset}
    chosen = [[name] if value is True else [name, value] for name, value in options.items() if value]
    command = shlex.join(["algodistill", "publish", str(folder), repo_id, *map(str, itertools.chain(*chosen))])
    first_seen: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="algodistill-") as generated,
        _quiet_clients(),
        plain_errors(repo_id, f"Nothing was changed here; to continue: {command}"),
    ):
        prepare = _prepare_dataset if repo_type == "dataset" else _prepare_model
        files, card = prepare(folder, Path(generated), dataset)
        card(repo_id, "")  # Before a repository is made for it.

        def ready() -> tuple[str, str, str, list[CommitOperationAdd | CommitOperationDelete]]:
            """Address and name of the repository, the commit to build on, and what to change, already uploaded."""
            url = api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True)
            name = url.repo_id
            info = api.repo_info(name, repo_type=repo_type)
            if private and not info.private:
                raise ValueError(f"{name} is public already: publish without --private, or choose another repository.")
            if revision is not None:
                api.create_branch(name, repo_type=repo_type, branch=revision, exist_ok=True)
                info = api.repo_info(name, repo_type=repo_type, revision=revision)
            base = str(info.sha)
            first_seen.append(base)
            existing = _published_card(api, name, repo_type, base) or _local_card(folder)
            present = api.list_repo_files(name, repo_type=repo_type, revision=base)
            additions = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
            additions.append(CommitOperationAdd(CARD_FILE, merge_cards(existing, card(name, existing)).encode()))
            api.preupload_lfs_files(
                name, additions, repo_type=repo_type, revision=revision, create_pr=create_pr, free_memory=False
            )
            removals = [CommitOperationDelete(path) for path in _outdated(present, files)]
            address = str(url) if revision is None else f"{url}/tree/{revision}"
            return address, name, base, [*additions, *removals]

        def commit(made: tuple[str, str, str, list[CommitOperationAdd | CommitOperationDelete]]) -> Publication:
            address, name, base, operations = made
            title = "Publish learning histories" if repo_type == "dataset" else "Publish checkpoint"
            commit = api.create_commit(
                name,
                operations,
                repo_type=repo_type,
                commit_message=message or title,
                revision=revision,
                create_pr=create_pr,
                # What somebody has written into the card in the meantime is not overwritten, but read.
                parent_commit=base,
            )
            return Publication(
                url=commit.pr_url or address,
                repo_id=name,
                repo_type=repo_type,
                commit=commit.oid,
                changed=commit.oid != first_seen[0],
                left_out=_left_out(folder, files),
            )

        if create_pr:
            # Sent once: a second pull request would be as bad as none.
            return commit(_persistently(ready))
        return _persistently(lambda: commit(ready()))


def kind_of_folder(folder: Path) -> str:
    """What a folder would be on the Hub, `"model"` or `"dataset"`.

    Raises:
        ValueError: If it is neither, both, or not complete.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: give the folder of a checkpoint or of learning histories.")
    config, shards = folder / "config.json", history_shards(folder)
    if config.exists() and shards:
        raise ValueError(f"{folder} holds a checkpoint and learning histories: publish each from a folder of its own.")
    if config.exists():
        if read_json(config).get("model_type") != "algodistill":
            raise ValueError(
                f"{folder} holds another kind of model: expected config.json of an algodistill checkpoint."
            )
        for name, what in (("*.safetensors", "weights"), ("preprocessor_config.json", "tokeniser")):
            if not list(folder.glob(name)):
                raise ValueError(f"{folder} lacks the checkpoint's {what} ({name}): save model and tokeniser there.")
        _check_weights(folder)
        return "model"
    if shards:
        unfinished = [
            place for place in shards if (place / COLLECTION_FILE).exists() and not (folder / CARD_FILE).exists()
        ]
        if unfinished:
            raise ValueError(f"{folder} is not complete: its collection was interrupted. Collect again to finish it.")
        return "dataset"
    if checkpoint := get_last_checkpoint(folder):
        raise ValueError(f"{folder} holds an unfinished run: finish it, or publish {checkpoint}.")
    raise ValueError(
        f"{folder} holds neither a checkpoint (config.json) nor learning histories (DarkRoom-v0/train-00000.parquet)."
    )


def _check_weights(folder: Path) -> None:
    """Raise a `ValueError` if weights are not whole."""
    shards = read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    for file in sorted({*folder.glob("*.safetensors"), *(folder / str(name) for name in shards.values())}):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is not a whole file of weights ({error}): save the model again.") from error


# The card of a folder, by the name of its repository and what is written there already.
Card = Callable[[str, str], str]


def model_files(folder: Path) -> list[Path]:
    """What of a checkpoint's folder is published, but for the card."""
    return [file for pattern in MODEL_FILES for file in sorted(folder.glob(pattern)) if file.is_file()]


def _prepare_model(folder: Path, generated: Path, dataset: str | None) -> tuple[dict[str, Path], Card]:
    """The files of a checkpoint by their path in the repository, and its card."""

    def card(name: str, existing: str) -> str:
        # What was named once stays.
        named = card_metadata(existing).get("datasets")
        known = dataset or (named[0] if isinstance(named, list) and named else None)
        return model_card(folder, name, known)

    return {file.name: file for file in model_files(folder)}, card


def _prepare_dataset(folder: Path, generated: Path, dataset: str | None) -> tuple[dict[str, Path], Card]:
    """The files of a dataset by their path in the repository, and its card."""
    if dataset is not None:
        raise ValueError("Learning histories were not trained on a dataset: leave --dataset out.")
    parts = read_parts(folder)
    places: dict[str, Path] = {}
    files = {}
    for part in parts:
        if (other := places.setdefault(part.config, part.folder)) != part.folder:
            raise ValueError(f"{other} and {part.folder} both hold histories of {part.config}: publish one of them.")
        picture = generated / f"{part.config}.png"
        plot_part(part, picture)
        # In the repository, histories lie in a folder with their environment's name, whatever it is called here.
        part.path = f"{part.config}/"
        files.update({f"{part.path}{shard.name}": shard for shard in history_shards(folder)[part.folder]})
        files[f"{part.path}{CURVE_FILE}"] = picture
        if part.collection is not None:
            files[f"{part.path}{COLLECTION_FILE}"] = part.folder / COLLECTION_FILE
    return files, lambda name, existing: dataset_card(parts, name)


def _outdated(present: Sequence[str], files: Mapping[str, Path]) -> list[str]:
    """What lies in the repository where these files go and belongs to what was published before.

    Shards that are read along would mix old with new; evaluations would be those of other weights.
    """
    folders = {PurePosixPath(path).parent for path in files}
    return [
        path
        for path in present
        if path not in files
        and PurePosixPath(path).parent in folders
        and any(PurePosixPath(path).match(pattern) for pattern in OUTDATED_FILES)
    ]


def _left_out(folder: Path, files: dict[str, Path]) -> list[str]:
    """What lies at the top of a folder and is not published."""
    published = {file.relative_to(folder).parts[0] for file in files.values() if file.is_relative_to(folder)}
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in {*published, CARD_FILE})


def _local_card(folder: Path) -> str:
    path = folder / CARD_FILE
    return path.read_text() if path.exists() else ""


def _published_card(api: HfApi, repo_id: str, repo_type: str, revision: str) -> str | None:
    """The card that is in the repository, if there is one."""
    try:
        path = api.hf_hub_download(repo_id, CARD_FILE, repo_type=repo_type, revision=revision)
    except RemoteEntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8")


def _persistently(upload: Callable[[], Result]) -> Result:
    """Do it, and again where the network or the Hub failed. What has arrived is not sent again."""
    deadline = time.monotonic() + RETRY_SECONDS
    for wait in RETRY_WAITS:
        try:
            with _timeouts():
                return upload()
        except Exception as error:
            # Somebody else's commit came in between: what to change is to be found anew.
            overtaken = isinstance(error, HfHubHTTPError) and error.response.status_code == 412
            if not (overtaken or hub_failure(error)) or time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
    with _timeouts():
        return upload()


@contextlib.contextmanager
def _quiet_clients() -> Iterator[None]:
    """The clients' own words about every attempt, only for whoever asked for them."""
    before = hub_logging.get_verbosity()
    if before == hub_logging.WARNING:  # The default.
        hub_logging.set_verbosity_error()
    try:
        yield
    finally:
        hub_logging.set_verbosity(before)


@contextlib.contextmanager
def _timeouts() -> Iterator[None]:
    """The clients would wait for a silent Hub for ever."""
    session = get_session()
    before, session.timeout = session.timeout, TIMEOUTS
    try:
        yield
    finally:
        session.timeout = before


@contextlib.contextmanager
def plain_errors(repo_id: str, to_continue: str) -> Iterator[None]:
    """Say in one line what the Hub's clients say in many, of writing to a repository.

    Raises:
        ValueError: If the Hub refuses.
        HubUnavailable: If it cannot be reached, or fails; the message ends in `to_continue`.
    """
    try:
        yield
    except Exception as error:
        if failure := hub_failure(error):
            raise HubUnavailable(failure, to_continue) from error
        if refusal := _refusal(error, repo_id):
            raise ValueError(refusal) from error
        raise


def _refusal(error: BaseException, repo_id: str) -> str | None:
    """Why the Hub refused to have a repository written to; `None` if that is not what the error says."""
    if isinstance(error, OfflineModeIsEnabled):
        return "The Hub is switched off by HF_HUB_OFFLINE: unset it to publish."
    if isinstance(error, LocalTokenNotFoundError):
        return _no_token(repo_id)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    if cause.response.status_code == 401:
        return _no_token(repo_id)
    if cause.response.status_code == 403:
        return f"The token has no right to write to {repo_id}: publish under your own name, or ask for it."
    if isinstance(cause, RepositoryNotFoundError):
        return f"There is no repository {repo_id}, or it is not yours to see."
    return f"The Hub refused: {next(filter(None, map(str.strip, str(cause).splitlines())), type(cause).__name__)}"


def _no_token(repo_id: str) -> str:
    return f"Writing to {repo_id} needs a token of the Hub that is valid: run `hf auth login`, or set HF_TOKEN."
