"""Training from the Hub and to it, as users run it: what is read, what is published, and what if the Hub fails."""

import itertools
import json
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from commands import ROOT, TINY_PRESET, algodistill, run, train, write_preset
from loopback_hub import Commit, LoopbackHub

from algodistill import StreamedHistoryWindows, cli, publish
from algodistill.hub import publishing
from algodistill.outcomes import HubUnavailable, exit_code
from algodistill.training import building, collect, running
from algodistill.training.job import parse_job, repeatable, without_hub_settings


TOKEN = "hf_writer_token"
HISTORIES, STREAMED = "tester/histories", "tester/streamed"
STREAMING = ["--streaming", "--dataset", HISTORIES]

# What a machine without this package makes of a checkpoint: the logits of one window.
LOGITS = """
import json, sys
sys.modules["algodistill"] = None
import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

logits = {}
for place, revision in json.loads(sys.argv[1]):
    own = {"revision": revision, "trust_remote_code": True}
    model, tokeniser = AutoModel.from_pretrained(place, **own), AutoProcessor.from_pretrained(place, **own)
    rng = np.random.default_rng(0)
    window = {
        "observations": rng.integers(3, size=(12, 2)),
        "actions": rng.integers(5, size=12),
        "rewards": rng.integers(2, size=12).astype(np.float32),
        "episode_starts": np.arange(12) % 5 == 0,
        "previous_action": np.int64(0),
        "previous_reward": np.float32(0),
        "history_start": np.bool_(True),
        "seed": np.int64(0),
    }
    with torch.no_grad():
        logits[f"{place}@{revision}"] = model.eval()(**tokeniser([window])).logits.flatten().tolist()
print("LOGITS", json.dumps(logits))
"""
# The main job, whose uploads are not tried again for as long.
IMPATIENT = """
import sys
from algodistill.hub import publishing
publishing.RETRY_WAITS = (0.1,)
from algodistill.train import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny preset and its histories."""
    folder = tmp_path_factory.mktemp("project")
    collect(write_preset(folder), folder / "data" / "tiny", progress=False)
    return folder


@pytest.fixture(scope="module")
def lasting_hub(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub for the programs that these tests start, with the histories."""
    with LoopbackHub(tmp_path_factory.mktemp("hub")) as hub:
        result = algodistill(
            folder, "publish", "data/tiny", HISTORIES, environment=hub.environment(tmp_path_factory.mktemp("home"))
        )
        assert result.returncode == 0, result.stderr
        yield hub


@pytest.fixture(scope="module")
def closed_port() -> str:
    """The address of a Hub that is not there."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture(scope="module")
def local(folder: Path, lasting_hub: LoopbackHub, closed_port: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run without any Hub."""
    environment = lasting_hub.environment(tmp_path_factory.mktemp("home"), HF_ENDPOINT=closed_port)
    result = train(folder, environment=environment)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def downloaded(folder: Path, lasting_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a run whose histories came from the Hub, and the caches that they lie in now."""
    home = tmp_path_factory.mktemp("home")
    environment = lasting_hub.environment(home, token=None)
    result = train(folder, "--dataset", HISTORIES, "--output_dir", "runs/downloaded", environment=environment)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "downloaded", home


class Published:
    """A run that streamed from the Hub and published every checkpoint."""

    def __init__(self, folder: Path, hub: LoopbackHub, home: Path) -> None:
        self.folder, self.home = folder / "runs" / "streamed", home
        options = [*STREAMING, "--output_dir", "runs/streamed", "--push_to_hub", "--hub_model_id", STREAMED]
        options += ["--hub_always_push", "True", "--hub_token", TOKEN]
        self.result = train(folder, *options, environment=hub.environment(home, token=None))

    def commits(self, hub: LoopbackHub) -> dict[str, Commit]:
        """The commits by their titles, newest first, but for the one that made the repository."""
        history = list(hub.repository(STREAMED).history("main"))[:-1]
        assert len({commit.title for commit in history}) == len(history)
        return {commit.title: commit for commit in history}


@pytest.fixture(scope="module")
def published(folder: Path, lasting_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Published:
    published = Published(folder, lasting_hub, tmp_path_factory.mktemp("home"))
    assert published.result.returncode == 0, published.result.stderr
    return published


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def assert_one_line(code: int, stderr: str, expected_code: int, *named: str) -> None:
    """A program ended as expected, and its last word was one line with these words."""
    assert code == expected_code, stderr
    assert "Traceback" not in stderr
    ours = [line for line in stderr.splitlines() if line.startswith("algodistill: ")]
    assert len(ours) == 1 and stderr.strip().endswith(ours[0]), stderr
    for words in named:
        assert words in ours[0]


# Reading


def test_downloaded_histories_give_the_weights_of_local_ones(local: Path, downloaded: tuple[Path, Path]) -> None:
    assert weights(downloaded[0]) == weights(local)
    card = (downloaded[0] / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["datasets"] == [HISTORIES]


def test_without_the_hub_what_has_been_downloaded_is_there(
    folder: Path, local: Path, downloaded: tuple[Path, Path], lasting_hub: LoopbackHub
) -> None:
    environment = lasting_hub.environment(downloaded[1], token=None, HF_HUB_OFFLINE="1")
    before = len(lasting_hub.requests)
    result = train(folder, "--dataset", HISTORIES, "--output_dir", "runs/offline", environment=environment)
    assert result.returncode == 0, result.stderr
    assert weights(folder / "runs" / "offline") == weights(local)
    assert len(lasting_hub.requests) == before


def test_histories_that_are_not_here_are_not_to_be_had_offline(
    folder: Path, lasting_hub: LoopbackHub, tmp_path: Path
) -> None:
    environment = lasting_hub.environment(tmp_path, HF_HUB_OFFLINE="1")
    result = train(folder, "--dataset", HISTORIES, "--output_dir", str(tmp_path / "run"), environment=environment)
    assert_one_line(result.returncode, result.stderr, 2, HISTORIES)
    # The Hub is there; to do the same again would lead to the same.
    assert "cannot be reached" not in result.stderr and "Run the same again" not in result.stderr


def test_local_checkpoint_is_evaluated_without_a_hub(
    folder: Path, local: Path, lasting_hub: LoopbackHub, closed_port: str, tmp_path: Path
) -> None:
    environment = lasting_hub.environment(tmp_path, HF_ENDPOINT=closed_port)
    options = ["--episodes", "3", "--streams", "4", "--output_dir", str(tmp_path / "result")]
    result = algodistill(folder, "evaluate", str(local), *options, environment=environment)
    assert result.returncode == 0, result.stderr
    found, expected = (
        json.loads((place / "in_context_evaluation.json").read_text())["episode_return"]
        for place in (tmp_path / "result", local)
    )
    assert found == expected


def test_interrupted_streaming_continues_to_the_same_weights(
    folder: Path, published: Published, lasting_hub: LoopbackHub, tmp_path: Path
) -> None:
    resumed = tmp_path / "resumed"
    shutil.copytree(published.folder / "checkpoint-4", resumed / "checkpoint-4")
    shutil.copy(published.folder / "settings.json", resumed)
    environment = lasting_hub.environment(tmp_path / "home", token=None)
    result = train(folder, *STREAMING, "--output_dir", str(resumed), environment=environment)
    assert result.returncode == 0, result.stderr
    assert "Continuing from" in result.stdout
    assert weights(resumed / "checkpoint-4") != weights(resumed)
    assert weights(resumed) == weights(published.folder)
    states = [json.loads((place / "trainer_state.json").read_text()) for place in (resumed, published.folder)]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert losses[0] == losses[1] and len(losses[0]) == 8


# Publishing


def test_every_pushed_revision_acts_as_its_checkpoint_without_the_package(
    published: Published, lasting_hub: LoopbackHub, tmp_path: Path
) -> None:
    commits = published.commits(lasting_hub)
    places = {
        "End of training": published.folder,
        "Training in progress, step 8": published.folder / "checkpoint-8",
        "Training in progress, step 4": published.folder / "checkpoint-4",
    }
    assert list(commits) == list(places), "each checkpoint is published, in the order in which it was saved"
    pairs = [[[STREAMED, commits[title].oid], [str(place), "main"]] for title, place in places.items()]
    result = run(
        [sys.executable, "-c", LOGITS, json.dumps([place for pair in pairs for place in pair])],
        tmp_path,
        environment=lasting_hub.environment(tmp_path, token=None),
    )
    assert result.returncode == 0, result.stderr
    logits = json.loads(result.stdout.partition("LOGITS ")[2])
    found = [logits[f"{pushed}@{revision}"] for (pushed, revision), _ in pairs]
    assert found == [logits[f"{place}@{revision}"] for _, (place, revision) in pairs]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 12 * 5


def test_pushed_files_are_weights_code_and_words(published: Published, lasting_hub: LoopbackHub) -> None:
    commits = published.commits(lasting_hub)
    for commit in commits.values():
        assert {path for path in commit.tree if not path.startswith(".")} <= {
            *("README.md", "config.json", "preprocessor_config.json", "model.safetensors", "settings.json"),
            *("in_context_evaluation.json", "learning_curve.png"),
            *(f"{name}_algodistill.py" for name in ("agent", "configuration", "modeling", "spaces", "tokenisation")),
        }
        assert {"README.md", "model.safetensors", "modeling_algodistill.py"} <= set(commit.tree)
    # Nor has anything else ever been sent. Pickles and the archives of `torch.save` begin like this.
    for blob in lasting_hub.blobs.iterdir():
        assert not blob.read_bytes().startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04"))


def test_last_revision_has_card_and_evaluation(published: Published, lasting_hub: LoopbackHub) -> None:
    files = lasting_hub.files(STREAMED)
    local = {path.name: path.read_bytes() for path in published.folder.iterdir() if path.is_file()}
    for name in ("in_context_evaluation.json", "learning_curve.png", "model.safetensors", "settings.json"):
        assert files[name] == local[name]
    card = files["README.md"].decode()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["datasets"] == [HISTORIES]
    assert metadata["model-index"][0]["results"]
    assert f'from_pretrained("{STREAMED}")' in card
    assert "has not been evaluated" not in card
    first = [commit.tree for commit in lasting_hub.repository(STREAMED).history("main")][-2]
    assert "in_context_evaluation.json" not in first
    assert "has not been evaluated" in lasting_hub.content(first["README.md"]).decode()


def test_token_of_the_command_line_is_written_nowhere(published: Published, lasting_hub: LoopbackHub) -> None:
    assert any(request.token == TOKEN and "/commit/" in request.path for request in lasting_hub.requests)
    assert TOKEN not in published.result.stdout + published.result.stderr
    for place in (published.folder, published.home, lasting_hub.folder):
        files = [path for path in place.rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert TOKEN.encode() not in path.read_bytes(), path
    assert (published.folder / "checkpoint-4" / "training_args.bin").exists()
    (command,) = re.findall(r"accelerate launch .*", lasting_hub.files(STREAMED)["README.md"].decode())
    assert shlex.split(command)[2:] == [
        *("-m", "algodistill.train", "--config", "tiny.yaml", "--streaming", "--dataset", HISTORIES)
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--hub_token", "hf_x", "--seed", "1"], ["--seed", "1"]),
        (["--seed", "1", "--hub_token=hf_x"], ["--seed", "1"]),
        (["--hub-token", "hf_x"], []),
        (["--hub-token=hf_x"], []),
        (["--push_to_hub", "--seed", "1"], ["--seed", "1"]),
        (["--push_to_hub", "True", "--seed", "1"], ["--seed", "1"]),
        (["--push-to-hub", "--hub-model-id", "a/b", "--hub_private_repo", "True"], []),
        (["--dataset", "a/hub_x", "--eval_delay", "-1"], ["--dataset", "a/hub_x", "--eval_delay", "-1"]),
    ],
)
def test_hub_options_are_taken_out_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], kept: list[str]
) -> None:
    write_preset(tmp_path)
    monkeypatch.chdir(tmp_path)
    argv = ["--config", "./tiny.yaml", *options]
    assert repeatable(argv, parse_job(argv)) == ["--config", "tiny.yaml", *kept]


def test_token_of_a_preset_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_preset(tmp_path, hub_token="hf_x", hub_model_id="a/b", seed=7)
    monkeypatch.chdir(tmp_path)
    text = without_hub_settings(tmp_path / "tiny.yaml")
    assert "hf_x" not in text and "a/b" not in text and "seed: 7" in text
    write_preset(tmp_path, "mine", seed=7)
    assert without_hub_settings(tmp_path / "mine.yaml") == (tmp_path / "mine.yaml").read_text()


@pytest.fixture(scope="module")
def two_streams(folder: Path, lasting_hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two processes that streamed from the Hub and published, and what it said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29547"]
    command += [str(ROOT / "train.py"), "--config", "tiny.yaml", "--use_cpu", "--ddp_backend", "gloo", *STREAMING]
    command += ["--output_dir", "runs/two_streams", "--push_to_hub", "--hub_model_id", "two_streams"]
    command += ["--hub_always_push", "True", "--eval_strategy", "steps", "--eval_steps", "8"]
    result = run(command, folder, environment=lasting_hub.environment(tmp_path_factory.mktemp("home")))
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "two_streams", result.stdout


def test_two_processes_publish_once(two_streams: tuple[Path, str], lasting_hub: LoopbackHub) -> None:
    own, said = two_streams
    assert said.count("Published at") == 1
    repo = "tester/two_streams"
    assert lasting_hub.commits(repo) == [
        *("End of training", "Training in progress, step 8", "Training in progress, step 4", "initial commit")
    ]
    revisions = [commit.oid for commit in lasting_hub.repository(repo).history("main")][:-1]
    for revision, place in zip(revisions, (own, own / "checkpoint-8", own / "checkpoint-4"), strict=True):
        assert lasting_hub.files(repo, revision=revision)["model.safetensors"] == weights(place)


def test_hub_that_fails_does_not_stop_the_training(folder: Path, lasting_hub: LoopbackHub, tmp_path: Path) -> None:
    environment = lasting_hub.environment(tmp_path)
    options = ["--config", "tiny.yaml", "--output_dir", "runs/failing", "--push_to_hub", "--hub_model_id", "failing"]
    lasting_hub.fail("500", path="/commit/", times=1000)
    try:
        result = run([sys.executable, "-c", IMPATIENT, *options], folder, environment=environment)
    finally:
        lasting_hub.faults.clear()
    assert_one_line(result.returncode, result.stderr, 1, "answered 500")
    assert lasting_hub.commits("tester/failing") == ["initial commit"]
    assert "could not be published; training goes on" in result.stderr
    assert "algodistill-push-" not in result.stderr, "names a copy that is gone"
    own = folder / "runs" / "failing"
    assert json.loads((own / "in_context_evaluation.json").read_text())["episodes"] == 3
    assert {"README.md", "learning_curve.png", "model.safetensors"} <= {path.name for path in own.iterdir()}
    assert not list(own.rglob("*.partial"))

    again = result.stderr.strip().rpartition("algodistill publish ")[2]
    assert shlex.split(again) == ["runs/failing", "tester/failing"]
    result = algodistill(folder, "publish", *shlex.split(again), environment=environment)
    assert result.returncode == 0, result.stderr
    assert lasting_hub.files("tester/failing")["model.safetensors"] == weights(own)


def test_published_checkpoint_is_evaluated_without_the_hub_once_it_is_here(
    folder: Path, published: Published, lasting_hub: LoopbackHub, tmp_path: Path
) -> None:
    returns = []
    for offline in ({}, {"HF_HUB_OFFLINE": "1"}):
        options = ["--episodes", "3", "--streams", "4", "--output_dir", str(tmp_path / f"result{len(returns)}")]
        result = algodistill(
            folder, "evaluate", STREAMED, *options, environment=lasting_hub.environment(tmp_path, None, **offline)
        )
        assert result.returncode == 0, result.stderr
        result_file = tmp_path / f"result{len(returns)}" / "in_context_evaluation.json"
        returns.append(json.loads(result_file.read_text())["episode_return"])
    own = json.loads((published.folder / "in_context_evaluation.json").read_text())["episode_return"]
    assert returns == [own, own]


# In this process, as far as the Hub is only asked


@pytest.fixture
def here(folder: Path, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> LoopbackHub:
    """The tests' Hub with the histories, in whose folder this process stands."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.write(HISTORIES, dataset_files(folder / "data" / "tiny"), "dataset")
    return hub


def dataset_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train_here(output: Path, *options: str) -> int:
    return exit_code(
        lambda: running.run(["--config", "tiny.yaml", "--use_cpu", "--output_dir", str(output), *options])
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--streaming"], ["--streaming", "--dataset"]),
        ([*STREAMING, "--max_steps", "-1"], ["stream", "--max_steps"]),
        ([*STREAMING, "--max_steps", "0"], ["stream", "--max_steps"]),
        (["--dataset", "tester/missing"], ["tester/missing"]),
        (["--dataset", "tester/missing", "--streaming"], ["tester/missing"]),
        (["--dataset", "tester/other"], ["Other-v0", "algodistill/DarkRoom-v0"]),
        (["--dataset", "tester/other", "--streaming"], ["Other-v0", "algodistill/DarkRoom-v0"]),
        (["--dataset", "tester/notes"], ["tester/notes"]),
        (["--dataset", "tester/notes", "--streaming"], ["tester/notes"]),
        (["--dataset", HISTORIES, "--split_seed", "7"], ["of the tasks to evaluate on"]),
        ([*STREAMING, "--split_seed", "7"], ["of the tasks to evaluate on"]),
        ([*STREAMING, "--first_episode", "50"], ["No transition is left"]),
        (["--push_to_hub", "--hub_strategy", "checkpoint"], ["hub_strategy='checkpoint'", "every_save"]),
        (["--push_to_hub", "--hub_strategy", "all_checkpoints"], ["hub_strategy='all_checkpoints'", "every_save"]),
        (["--model_name_or_path", "tester/missing"], ["tester/missing"]),
    ],
)
def test_what_cannot_be_is_said_in_one_line(here, folder, tmp_path, capsys, options, named):
    shard = (folder / "data" / "tiny" / "DarkRoom-v0" / "train-00000.parquet").read_bytes()
    here.write("tester/other", {"Other-v0/train-00000.parquet": renamed(shard, tmp_path)}, "dataset")
    here.write("tester/notes", {"notes.txt": b"no histories", "README.md": b"---\nlicense: mit\n---\n"}, "dataset")
    code = train_here(tmp_path / "run", *options)
    assert_one_line(code, capsys.readouterr().err, 2, *named)
    assert not list(tmp_path.glob("run/checkpoint-*"))
    assert not here.exists("tester/run")


def renamed(shard: bytes, folder: Path) -> bytes:
    """The same histories, of an environment with another name."""
    table = pyarrow.parquet.read_table(pa.BufferReader(shard))
    index = table.schema.get_field_index("environment")
    column = pa.array(["algodistill/Other-v0"] * len(table))
    path = folder / "other.parquet"
    pyarrow.parquet.write_table(table.set_column(index, table.schema.field(index), column), path)
    return path.read_bytes()


@pytest.mark.parametrize("streaming", [[], ["--streaming"]], ids=["downloaded", "streamed"])
@pytest.mark.parametrize("token", [None, "hf_stranger_token", "hf_no_token_at_all"])
def test_private_histories_are_not_to_be_had_without_the_right(
    here, folder, tmp_path, capsys, monkeypatch, streaming, token
):
    here.write("tester/secret", dataset_files(folder / "data" / "tiny"), "dataset", private=True)
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    code = train_here(tmp_path / "run", "--dataset", "tester/secret", *streaming)
    assert_one_line(code, capsys.readouterr().err, 2, "tester/secret")


@pytest.mark.parametrize("streaming", [[], ["--streaming"]], ids=["downloaded", "streamed"])
def test_private_histories_are_read_with_the_right(here, folder, tmp_path, streaming):
    here.write("tester/secret", dataset_files(folder / "data" / "tiny"), "dataset", private=True)
    options = ["--dataset", "tester/secret", "--max_steps", "1", "--test_episodes", "1", *streaming]
    assert train_here(tmp_path / "run", *options) == 0


@pytest.mark.parametrize(
    ("token", "repository", "exists", "named"),
    [
        (None, "tester/new", False, ["token", "hf auth login"]),
        (None, "tester/there", True, ["token", "hf auth login"]),
        ("hf_no_token_at_all", "tester/new", False, ["token", "hf auth login"]),
        ("hf_no_token_at_all", "tester/there", True, ["token", "hf auth login"]),
        ("hf_stranger_token", "tester/new", False, ["no right to write to tester/new"]),
        ("hf_stranger_token", "tester/there", True, ["no right to write to tester/there"]),
    ],
)
def test_token_without_the_right_to_write_is_found_before_training(
    here, tmp_path, capsys, monkeypatch, token, repository, exists, named
):
    monkeypatch.delenv("HF_TOKEN")
    if exists:
        here.write(repository, {"README.md": b"# There\n"})
    options = ["--push_to_hub", "--hub_model_id", repository, *(["--hub_token", token] if token else [])]
    code = train_here(tmp_path / "run", "--max_steps", "1", "--test_episodes", "1", *options)
    assert_one_line(code, capsys.readouterr().err, 2, *named)
    assert not (tmp_path / "run" / "trainer_state.json").exists(), "trained before the token was found to be useless"
    assert not here.exists(repository) or here.commits(repository) == ["Upload README.md", "initial commit"]


def test_hub_that_cannot_be_reached_is_found_before_training(here, tmp_path, capsys):
    here.fail("503", path="/api/repos/create", times=1000)
    code = train_here(tmp_path / "run", "--push_to_hub", "--hub_model_id", "tester/run")
    assert_one_line(code, capsys.readouterr().err, 1, "answered 503", "Nothing has been trained")
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_training_starts_from_a_checkpoint_on_the_hub(here, local, tmp_path):
    publish(local, "tester/start")
    options = ["--model_name_or_path", "tester/start", "--learning_rate", "0.0", "--max_steps", "1"]
    assert train_here(tmp_path / "run", *options) == 0
    assert weights(tmp_path / "run") == weights(local)


def test_branch_of_a_checkpoint_is_evaluated(here, local, tmp_path):
    publish(local, "tester/branches")
    publish(local / "checkpoint-4", "tester/branches", revision="early")
    returns = {}
    for revision in ("main", "early", "gone"):
        options = ["--revision", revision, "--episodes", "4", "--streams", "32", "--output_dir"]
        code = cli.main(["evaluate", "tester/branches", *options, str(tmp_path / revision)])
        if revision == "gone":
            assert code == 2
            continue
        assert code == 0
        returns[revision] = json.loads((tmp_path / revision / "in_context_evaluation.json").read_text())
    early = tmp_path / "local"
    assert cli.main(["evaluate", str(local / "checkpoint-4"), *options[2:], str(early)]) == 0
    expected = json.loads((early / "in_context_evaluation.json").read_text())
    assert returns["early"]["episode_return"] == expected["episode_return"]
    assert returns["early"]["episode_return"] != returns["main"]["episode_return"]


class OfTwoProcesses(StreamedHistoryWindows):
    """What two processes read, in one: a batch of the first and a batch of the second, by turns."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        both = ({**options, "rank": rank, "world_size": 2} for rank in range(2))
        self.parts = [StreamedHistoryWindows(*arguments, **of_one) for of_one in both]

    def __iter__(self) -> Iterator[Any]:
        readers = [iter(part) for part in self.parts]
        while True:
            for reader in readers:
                yield from itertools.islice(reader, TINY_PRESET["per_device_train_batch_size"])


def test_two_processes_learn_from_the_parts_of_both(here, two_streams, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "StreamedHistoryWindows", OfTwoProcesses)
    both = 2 * TINY_PRESET["per_device_train_batch_size"]
    options = ["--per_device_train_batch_size", str(both), "--test_episodes", "1"]
    assert train_here(tmp_path / "run", *STREAMING, *options) == 0
    losses = [
        [
            entry["loss"]
            for entry in json.loads((place / "trainer_state.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for place in (tmp_path / "run", two_streams[0])
    ]
    assert len(losses[0]) == 8
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_stream_is_read_by_workers(here, tmp_path):
    options = ["--dataloader_num_workers", "2", "--max_steps", "2", "--test_episodes", "1"]
    assert train_here(tmp_path / "run", *STREAMING, *options) == 0


def test_hub_that_goes_away_is_not_missed_once_the_histories_are_here(here, tmp_path, monkeypatch, capsys):
    train_first = running.train

    def hub_goes_away(*arguments: Any) -> None:
        train_first(*arguments)
        here.fail("drop", times=100_000)

    monkeypatch.setattr(running, "train", hub_goes_away)
    code = train_here(tmp_path / "run", "--dataset", HISTORIES, "--max_steps", "1", "--test_episodes", "1")
    assert code == 0, capsys.readouterr().err
    result = json.loads((tmp_path / "run" / "in_context_evaluation.json").read_text())
    assert result["references"]["source"] is not None


def test_checkpoints_stay_in_order_on_a_slow_hub(here, tmp_path):
    """Else an older checkpoint would lie over a newer one, until the end of the training."""
    here.fail("stall", path="/commit/", seconds=4)
    options = ["--push_to_hub", "--hub_model_id", "tester/run", "--hub_always_push", "True", "--test_episodes", "1"]
    assert train_here(tmp_path / "run", *options) == 0
    assert here.commits("tester/run") == [
        *("End of training", "Training in progress, step 8", "Training in progress, step 4", "initial commit")
    ]


def test_refusal_at_the_end_of_a_training_says_how_to_publish_it(here, tmp_path, capsys):
    """Such as of a token that has run out meanwhile."""
    here.fail("403", path="/commit/", times=100)
    options = ["--push_to_hub", "--hub_model_id", "tester/run", "--max_steps", "1", "--test_episodes", "1"]
    code = train_here(tmp_path / "run", *options)
    said = capsys.readouterr().err
    assert code in (1, 2) and "no right to write to tester/run" in said
    assert f"algodistill publish {tmp_path / 'run'} tester/run" in said
    assert (tmp_path / "run" / "in_context_evaluation.json").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"private": True}, ["--private"]),
        ({"revision": "side"}, ["--revision", "side"]),
        ({"create_pr": True}, ["--create-pr"]),
        ({"dataset": HISTORIES}, ["--dataset", HISTORIES]),
    ],
)
def test_command_that_continues_says_what_the_first_one_said(here, local, monkeypatch, options, expected):
    """Else it would, for instance, publish what was meant to be private."""
    monkeypatch.setattr(publishing, "RETRY_WAITS", ())
    here.fail("500", path="/api/repos/create", times=1000)
    with pytest.raises(HubUnavailable) as failure:
        publish(local, "tester/new", **options)
    command = shlex.split(str(failure.value).partition("to continue: ")[2].rstrip("."))
    assert command[:4] == ["algodistill", "publish", str(local), "tester/new"]
    assert command[4:] == expected


def test_preset_may_name_the_dataset(here, folder, tmp_path, monkeypatch):
    preset = write_preset(tmp_path, "streamed", dataset=HISTORIES, streaming=True, max_steps=1)
    assert yaml.safe_load(preset.read_text()).keys() == {*TINY_PRESET, "dataset", "streaming"}
    monkeypatch.chdir(tmp_path)
    code = exit_code(lambda: running.run(["--config", str(preset), "--use_cpu", "--test_episodes", "1"]))
    assert code == 0
    assert not (tmp_path / "data").exists()
    settings = json.loads((tmp_path / "runs" / "streamed" / "settings.json").read_text())["settings"]
    assert settings["histories"]["dataset"] == HISTORIES and settings["histories"]["streaming"] is True
