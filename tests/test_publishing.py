"""Publishing: what arrives on the Hub, what stays at home, what a card keeps, and what is said when it fails."""

import hashlib
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import httpx2
import huggingface_hub
import numpy as np
import pyarrow.parquet
import pytest
import yaml
from commands import write_preset
from huggingface_hub import DatasetCard, ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny import ACTION_SPACE, CORRIDOR, OBSERVATION_SPACE

from algodistill import HistoryWriter, cli, publish
from algodistill.hub import publishing
from algodistill.hub.cards import merge_cards
from algodistill.outcomes import HubUnavailable
from algodistill.train import main as train_main


DATASET, MODEL = "tester/histories", "tester/checkpoint"
TOKEN, STRANGER = "hf_writer_token", "hf_stranger_token"
MODEL_FILES = {
    "README.md",
    "agent_algodistill.py",
    "config.json",
    "configuration_algodistill.py",
    "in_context_evaluation.json",
    "learning_curve.png",
    "model.safetensors",
    "modeling_algodistill.py",
    "preprocessor_config.json",
    "settings.json",
    "spaces_algodistill.py",
    "tokenisation_algodistill.py",
}
DATASET_FILES = {
    "README.md",
    "DarkRoom-v0/collection.json",
    "DarkRoom-v0/learning_curve.png",
    "DarkRoom-v0/test-00000.parquet",
    "DarkRoom-v0/train-00000.parquet",
    "DarkRoom-v0/validation-00000.parquet",
}
# Where publishing meets the Hub: method and path.
STEPS = {
    "create": ("POST", "^/api/repos/create$"),
    "information": ("GET", "^/api/models/tester/checkpoint$"),
    "look for the card": ("HEAD", "README.md$"),
    "read the card": ("GET", "README.md$"),
    "list": ("GET", "/tree/"),
    "check the card": ("POST", "validate-yaml"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "objects/batch"),
    "upload": ("PUT", "^/lfs/"),
    "verify": ("POST", "^/lfs/verify"),
    "commit": ("POST", "/commit/"),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny preset's histories and a run on them, which no test changes."""
    folder = tmp_path_factory.mktemp("project")
    write_preset(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["train.py", "--config", "tiny.yaml", "--use_cpu", "true"])
        assert train_main() == 0
    return folder


@pytest.fixture
def histories(project: Path, tmp_path: Path) -> Path:
    """A folder of learning histories."""
    return shutil.copytree(project / "data" / "tiny", tmp_path / "histories")


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    return shutil.copytree(project / "runs" / "tiny", tmp_path / "run")


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where other processes keep their caches."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a Hub that fails."""
    monkeypatch.setattr(publishing, "RETRY_WAITS", (0.01, 0.01))
    monkeypatch.setattr(publishing, "TIMEOUTS", httpx2.Timeout(0.5))
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[str, str]]:
    """What has been said since on standard output and error, the Hub's client's own log among it."""
    for handler in logging.getLogger("huggingface_hub").handlers:
        now = SimpleNamespace(write=lambda text: sys.stderr.write(text), flush=lambda: None)
        monkeypatch.setattr(handler, "stream", now)
    return lambda: tuple(capsys.readouterr())  # type: ignore[return-value]


def command(*arguments: object) -> int:
    """`algodistill publish`, in this process."""
    return cli.main(["publish", *map(str, arguments)])


def only_line(error: str) -> str:
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("algodistill: ")
    return lines[0]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Everything in a folder, with when it was changed."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def published(hub: LoopbackHub, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
    """The files of a repository but for the one with which the Hub starts it."""
    files = hub.files(repo_id, repo_type, revision)
    files.pop(".gitattributes")
    return files


def card_of(hub: LoopbackHub, repo_id: str, repo_type: str = "model", revision: str = "main") -> str:
    return hub.files(repo_id, repo_type, revision)["README.md"].decode()


def metadata_of(card: str) -> dict[str, Any]:
    return yaml.safe_load(card.split("---\n")[1])


def puts(hub: LoopbackHub) -> list[str]:
    """What has been sent as a large file, by its sha256, in order of arrival."""
    return [request.path.removeprefix("/lfs/") for request in hub.requests if request.method == "PUT"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_histories(
    folder: Path, environment: str = CORRIDOR, count: int = 6, first: int = 0, megabytes: float = 64.0
) -> Path:
    """Record some random histories, as a loop of one's own would."""
    rng = np.random.default_rng(first)
    with HistoryWriter(
        folder, OBSERVATION_SPACE, ACTION_SPACE, environment=environment, algorithm="ppo", shard_megabytes=megabytes
    ) as writer:
        for seed in range(first, first + count):
            with writer.record(task={"goal": seed}, seed=seed) as history:
                for step in range(12):
                    observation, action = rng.integers([6, 4]), int(rng.integers(3))
                    history.append(observation, action, float(rng.normal()), step % 4 == 3, False)
    return folder


def change_weights(run: Path) -> None:
    path = run / "model.safetensors"
    save_file({name: weights + 1 for name, weights in load_file(path).items()}, path, metadata={"format": "pt"})


def without_evaluation(run: Path) -> None:
    """Make a run's folder one of a checkpoint that has been trained on, and not evaluated since."""
    change_weights(run)
    for name in ("in_context_evaluation.json", "learning_curve.png", "README.md"):
        (run / name).unlink()


# What arrives, and what stays at home


def test_histories_become_a_dataset(
    hub: LoopbackHub, histories: Path, told: Callable[[], tuple[str, str]], tmp_path: Path
) -> None:
    (histories / ".env").write_text(f"HF_TOKEN={TOKEN}")
    (histories / "notes.txt").write_text("private")
    for name in (".train-00001.parquet.partial", "train-00000.parquet.bak", "cache.pkl", "other.parquet"):
        (histories / "DarkRoom-v0" / name).write_bytes(b"half")
    before = snapshot(tmp_path)
    assert command(histories, DATASET) == 0
    output, error = told()
    assert output.splitlines() == [f"Published: {hub.url}/datasets/{DATASET}", "Left at home: .env, notes.txt"]
    assert error == ""
    assert snapshot(tmp_path) == before
    files = published(hub, DATASET, "dataset")
    assert files.keys() == DATASET_FILES
    for path in DATASET_FILES - {"README.md"}:
        assert files[path] == (histories / path).read_bytes(), path
    assert hub.commits(DATASET, "dataset") == ["Publish learning histories", "initial commit"]
    assert not hub.is_private(DATASET, "dataset")


def test_run_becomes_a_model(hub: LoopbackHub, run: Path, told: Callable[[], tuple[str, str]], tmp_path: Path) -> None:
    (run / ".env").write_text(f"HF_TOKEN={TOKEN}")
    left = ["optimizer.pt", "rng_state.pth", "pytorch_model.bin", "model.pkl", ".model.safetensors.partial", "my.npy"]
    for name in left:
        (run / name).write_bytes(b"\x80\x04}.")
    (run / "runs").mkdir()
    (run / "runs" / "events.out.tfevents.1").write_bytes(b"log")
    before = snapshot(tmp_path)
    assert command(run, MODEL) == 0
    output, error = told()
    assert error == ""
    stay = sorted([*left, ".env", "runs", "checkpoint-4", "checkpoint-8", "training_args.bin", "trainer_state.json"])
    assert output.splitlines() == [f"Published: {hub.url}/{MODEL}", f"Left at home: {', '.join(stay)}"]
    assert snapshot(tmp_path) == before
    files = published(hub, MODEL)
    assert files.keys() == MODEL_FILES
    for path in MODEL_FILES - {"README.md"}:
        assert files[path] == (run / path).read_bytes(), path
    assert hub.commits(MODEL) == ["Publish checkpoint", "initial commit"]


def test_checkpoint_of_a_run_is_a_model_too(hub: LoopbackHub, run: Path) -> None:
    assert command(run / "checkpoint-8", MODEL) == 0
    expected = MODEL_FILES - {"in_context_evaluation.json", "learning_curve.png", "settings.json"}
    assert published(hub, MODEL).keys() == expected
    assert ModelCard(card_of(hub, MODEL)).data.eval_results is None


def test_publication_says_what_became_of_it(hub: LoopbackHub, run: Path) -> None:
    publication = publish(run, MODEL, message="First try")
    assert (publication.repo_id, publication.repo_type, publication.changed) == (MODEL, "model", True)
    assert publication.url == f"{hub.url}/{MODEL}"
    assert publication.commit == hub.repository(MODEL).at("main").oid
    assert hub.commits(MODEL)[0] == "First try"
    again = publish(run, MODEL)
    assert (again.commit, again.changed) == (publication.commit, False)


# Publishing again


@pytest.mark.parametrize("kind", ["histories", "run"])
def test_publishing_again_uploads_nothing(
    hub: LoopbackHub, kind: str, request: pytest.FixtureRequest, told: Callable[[], tuple[str, str]]
) -> None:
    folder, repo_id = request.getfixturevalue(kind), "tester/again"
    repo_type = "dataset" if kind == "histories" else "model"
    assert command(folder, repo_id) == 0
    before, sent = hub.files(repo_id, repo_type), len(puts(hub))
    told()
    for _ in range(2):
        assert command(folder, repo_id) == 0
        output, error = told()
        assert output.startswith("Nothing has changed: ")
        assert error == ""
    assert hub.files(repo_id, repo_type) == before
    assert len(puts(hub)) == sent
    assert len(hub.commits(repo_id, repo_type)) == 2


def test_only_a_changed_shard_is_uploaded(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = write_histories(tmp_path / "mine", count=5, megabytes=1e-6)
    publish(folder, DATASET)
    hub.requests.clear()
    shard = folder / "Corridor-v0" / "train-00002.parquet"
    table = pyarrow.parquet.read_table(shard)
    column = table.schema.get_field_index("algorithm")
    pyarrow.parquet.write_table(table.set_column(column, "algorithm", [["sac"]]), shard)
    assert publish(folder, DATASET).changed
    # The curve's picture names the algorithms, hence is another one too.
    picture = hashlib.sha256(published(hub, DATASET, "dataset")["Corridor-v0/learning_curve.png"]).hexdigest()
    assert set(puts(hub)) == {sha256(shard), picture}
    assert published(hub, DATASET, "dataset")["Corridor-v0/train-00002.parquet"] == shard.read_bytes()
    assert len(hub.commits(DATASET, "dataset")) == 3


def test_outdated_shards_are_taken_out(hub: LoopbackHub, tmp_path: Path) -> None:
    publish(write_histories(tmp_path / "many", count=5, megabytes=1e-6), DATASET)
    publish(write_histories(tmp_path / "few", count=2, first=9), DATASET)
    assert published(hub, DATASET, "dataset").keys() == {
        "README.md",
        "Corridor-v0/learning_curve.png",
        "Corridor-v0/train-00000.parquet",
    }
    loaded = datasets.load_dataset(DATASET, "Corridor-v0", split="train")
    assert loaded["seed"][:] == [9, 10]


def test_histories_of_ones_own_do_not_keep_the_description_of_collected_ones(
    hub: LoopbackHub, histories: Path, tmp_path: Path
) -> None:
    publish(histories, DATASET)
    publish(write_histories(tmp_path / "mine", environment="algodistill/DarkRoom-v0"), DATASET)
    assert "DarkRoom-v0/collection.json" not in published(hub, DATASET, "dataset")
    configs = metadata_of(card_of(hub, DATASET, "dataset"))["configs"]
    assert [file["split"] for file in configs[0]["data_files"]] == ["train"]


def test_unevaluated_weights_do_not_keep_the_evaluation_of_others(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL)
    assert ModelCard(card_of(hub, MODEL)).data.eval_results is not None
    without_evaluation(run)
    publish(run, MODEL)
    assert published(hub, MODEL).keys() == MODEL_FILES - {"in_context_evaluation.json", "learning_curve.png"}
    card = card_of(hub, MODEL)
    assert "has not been evaluated" in card
    assert "learning_curve.png" not in card
    assert ModelCard(card).data.eval_results is None, "the results in the metadata are those of other weights"


def test_files_of_others_in_the_repository_stay(hub: LoopbackHub, histories: Path, run: Path) -> None:
    own = {"LICENSE": b"mine", "notes/thoughts.md": b"mine", "notes/train-00000.parquet": b"mine", "demo.mp4": b"m"}
    for repo_id, repo_type, folder in ((DATASET, "dataset", histories), (MODEL, "model", run)):
        hub.write(repo_id, own, repo_type)
        publish(folder, repo_id)
        publish(folder, repo_id)
        assert own.items() <= published(hub, repo_id, repo_type).items()


XET_SCRIPT = """
import pathlib, sys, algodistill
from algodistill.hub import publishing
folder, repo_id = pathlib.Path(sys.argv[1]), sys.argv[2]
print(algodistill.publish(folder, repo_id).changed)
print(algodistill.publish(folder, repo_id).changed)
shard = folder / "Corridor-v0" / "train-00001.parquet"
shard.write_bytes((folder / "Corridor-v0" / "train-00000.parquet").read_bytes())
(folder / "Corridor-v0" / "train-00002.parquet").unlink()
print(algodistill.publish(folder, repo_id).changed)
"""


def test_over_xet_only_what_has_changed_is_uploaded(hub: LoopbackHub, tmp_path: Path, home: Path) -> None:
    hub.xet = True
    try:
        environment = {**hub.environment(home), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        folder = write_histories(tmp_path / "mine", count=3, megabytes=1e-6)
        result = subprocess.run(
            [sys.executable, "-c", XET_SCRIPT, str(folder), DATASET],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.stdout.split() == ["True", "False", "True"], result.stderr
        files = published(hub, DATASET, "dataset")
        assert puts(hub) == []
    finally:
        hub.xet = False
    assert len(hub.commits(DATASET, "dataset")) == 3
    shards = {path for path in files if path.endswith(".parquet")}
    assert shards == {"Corridor-v0/train-00000.parquet", "Corridor-v0/train-00001.parquet"}
    assert all(files[path] == (folder / path).read_bytes() for path in shards)


# Where it is published to


def test_private_repository(hub: LoopbackHub, run: Path) -> None:
    assert command(run, MODEL, "--private") == 0
    assert hub.is_private(MODEL)
    # It stays so, whether it is said again or not.
    change_weights(run)
    assert command(run, MODEL) == 0
    assert command(run, MODEL, "--private") == 0
    assert hub.is_private(MODEL)
    assert len(hub.commits(MODEL)) == 3


def test_private_is_refused_where_the_repository_is_public(
    hub: LoopbackHub, run: Path, told: Callable[[], tuple[str, str]]
) -> None:
    hub.write(MODEL, {"notes.md": b"public"})
    assert command(run, MODEL, "--private") == 2
    assert "public" in only_line(told()[1])
    assert published(hub, MODEL).keys() == {"notes.md"}
    assert puts(hub) == []


def test_revision_is_a_branch_that_is_created(
    hub: LoopbackHub, run: Path, told: Callable[[], tuple[str, str]]
) -> None:
    for changed in (True, False):
        assert command(run, MODEL, "--revision", "long-context") == 0
        assert told()[0].startswith("Published" if changed else "Nothing has changed")
    assert published(hub, MODEL, revision="long-context").keys() == MODEL_FILES
    assert published(hub, MODEL) == {}
    assert len(hub.commits(MODEL, revision="long-context")) == 2


def test_hand_written_text_of_a_branch_is_that_branch_s(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL)
    publish(run, MODEL, revision="other")
    hub.write(MODEL, {"README.md": (card_of(hub, MODEL) + "\nOf main.\n").encode()})
    hub.write(
        MODEL, {"README.md": (card_of(hub, MODEL, revision="other") + "\nOf other.\n").encode()}, revision="other"
    )
    change_weights(run)
    publish(run, MODEL, revision="other")
    assert "Of other." in card_of(hub, MODEL, revision="other")
    assert "Of main." not in card_of(hub, MODEL, revision="other")
    assert "Of main." in card_of(hub, MODEL)


def test_pull_request_leaves_the_main_branch_alone(
    hub: LoopbackHub, run: Path, told: Callable[[], tuple[str, str]]
) -> None:
    publish(run, MODEL)
    before = hub.files(MODEL)
    change_weights(run)
    assert command(run, MODEL, "--create-pr") == 0
    assert told()[0].splitlines()[0] == f"Published: {hub.url}/{MODEL}/discussions/1"
    assert hub.files(MODEL) == before
    assert published(hub, MODEL, revision="refs/pr/1")["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_no_pull_request_is_opened_where_nothing_has_changed(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL)
    assert not publish(run, MODEL, create_pr=True).changed
    assert hub.pull_requests(MODEL) == []


def test_a_stranger_may_open_a_pull_request(
    hub: LoopbackHub, run: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], tuple[str, str]]
) -> None:
    publish(run, MODEL)
    change_weights(run)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert command(run, MODEL, "--create-pr") == 0, told()[1]
    assert hub.pull_requests(MODEL) == [1]


def test_pull_request_and_branch_are_not_both_to_be_had(
    hub: LoopbackHub, run: Path, told: Callable[[], tuple[str, str]]
) -> None:
    assert command(run, MODEL, "--create-pr", "--revision", "other") == 2
    only_line(told()[1])
    assert hub.requests == []


# Several environments


def test_two_environments_become_two_configurations(hub: LoopbackHub, histories: Path, tmp_path: Path) -> None:
    mine = write_histories(tmp_path / "mine")
    publish(histories, DATASET)
    publish(mine, DATASET)
    publish(histories, DATASET)
    assert len(hub.commits(DATASET, "dataset")) == 3, "the third changes nothing"
    assert datasets.get_dataset_config_names(DATASET) == ["DarkRoom-v0", "Corridor-v0"]
    card = DatasetCard(card_of(hub, DATASET, "dataset"))
    assert [config["config_name"] for config in card.data.configs] == ["DarkRoom-v0", "Corridor-v0"]
    assert {"algodistill/DarkRoom-v0", CORRIDOR} <= set(card.data.tags)
    assert [card.text.count(f"\n## {name}\n") for name in ("DarkRoom-v0", "Corridor-v0")] == [1, 1]
    for folder, config, split in (
        (histories, "DarkRoom-v0", "train"),
        (histories, "DarkRoom-v0", "validation"),
        (histories, "DarkRoom-v0", "test"),
        (mine, "Corridor-v0", "train"),
    ):
        loaded = datasets.load_dataset(DATASET, config, split=split)
        expected = pyarrow.parquet.read_table(folder / config / f"{split}-00000.parquet")
        found = loaded.with_format("arrow")[:]
        assert found.column_names == expected.column_names
        for column in found.column_names:
            assert found[column].to_pylist() == expected[column].to_pylist(), column
        streamed = datasets.load_dataset(DATASET, config, split=split, streaming=True)
        assert [row["id"] for row in streamed] == loaded["id"][:]


def test_one_folder_of_two_environments_is_one_dataset(hub: LoopbackHub, histories: Path) -> None:
    write_histories(histories)
    publish(histories, DATASET)
    files = published(hub, DATASET, "dataset")
    assert files.keys() == {*DATASET_FILES, "Corridor-v0/train-00000.parquet", "Corridor-v0/learning_curve.png"}
    assert len(datasets.load_dataset(DATASET, "Corridor-v0", split="train")) == 6


def test_histories_of_a_folder_of_any_name_go_where_their_environment_says(hub: LoopbackHub, tmp_path: Path) -> None:
    write_histories(tmp_path / "mine")
    (tmp_path / "mine" / "Corridor-v0").rename(tmp_path / "flat")
    publish(tmp_path / "flat", DATASET)
    assert "Corridor-v0/train-00000.parquet" in published(hub, DATASET, "dataset")
    assert len(datasets.load_dataset(DATASET, "Corridor-v0", split="train")) == 6


@pytest.mark.parametrize("environments", [("a/Maze-v0", "b/Maze-v0"), ("a/Maze-v0", "a/Maze-v0")])
def test_no_histories_are_lost_where_two_folders_would_be_one(
    hub: LoopbackHub, tmp_path: Path, environments: tuple[str, str]
) -> None:
    for number, environment in enumerate(environments):
        write_histories(tmp_path / str(number), environment, first=10 * number)
        (tmp_path / str(number) / "Maze-v0").rename(tmp_path / f"{number}-maze")
        (tmp_path / str(number)).rmdir()
    try:
        publish(tmp_path, DATASET)
    except ValueError as error:
        assert "Maze-v0" in str(error)
        return
    shards = [content for path, content in published(hub, DATASET, "dataset").items() if path.endswith(".parquet")]
    assert len(shards) == 2, "one folder's histories took the place of the other's"


# What cannot be published


def make_neither(folder: Path) -> None:
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")


def make_unfinished_run(folder: Path, run: Path) -> None:
    folder.mkdir()
    for step in (4, 8, 12):
        shutil.copytree(run / "checkpoint-8", folder / f"checkpoint-{step}")


@pytest.mark.parametrize(
    "case, words",
    [
        ("missing", ["nowhere", "not a folder"]),
        ("a file", ["README.md", "not a folder"]),
        ("empty", ["neither", "config.json", "train-00000.parquet"]),
        ("both", ["checkpoint", "histories"]),
        ("another model", ["config.json", "algodistill"]),
        ("no weights", ["weights"]),
        ("no tokeniser", ["tokeniser"]),
        ("half of the weights", ["model-00002-of-00002.safetensors"]),
        ("damaged weights", ["model.safetensors"]),
        ("damaged config", ["config.json"]),
        ("config is a list", ["config.json"]),
        ("damaged settings", ["settings.json"]),
        ("damaged evaluation", ["in_context_evaluation.json"]),
        ("unfinished run", ["unfinished", "checkpoint-12"]),
        ("unfinished collection", ["not complete", "Collect again"]),
        ("damaged shard", ["train-00000.parquet", "no whole file"]),
        ("damaged collection", ["collection.json"]),
        ("dataset of histories", ["--dataset"]),
    ],
)
def test_folder_that_cannot_be_published_is_refused_in_one_line(
    hub: LoopbackHub,
    histories: Path,
    run: Path,
    tmp_path: Path,
    told: Callable[[], tuple[str, str]],
    case: str,
    words: list[str],
) -> None:
    folder, options = tmp_path / "nowhere", []
    if case == "a file":
        folder = run / "README.md"
    elif case == "empty":
        make_neither(folder)
    elif case == "both":
        folder = shutil.copytree(histories, run, dirs_exist_ok=True)
    elif case in ("another model", "damaged config", "config is a list"):
        folder = run
        text = {"another model": '{"model_type": "gpt2"}', "damaged config": "{", "config is a list": "[1]"}[case]
        (run / "config.json").write_text(text)
    elif case == "no weights":
        folder = run
        (run / "model.safetensors").unlink()
    elif case == "half of the weights":
        folder = run
        (run / "model.safetensors").rename(run / "model-00001-of-00002.safetensors")
        places = {"head.weight": "model-00001-of-00002.safetensors", "body.weight": "model-00002-of-00002.safetensors"}
        (run / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    elif case == "damaged weights":
        folder = run
        (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])
    elif case == "no tokeniser":
        folder = run
        (run / "preprocessor_config.json").unlink()
    elif case == "damaged settings":
        folder = run
        (run / "settings.json").write_text('{"settings": ')
    elif case == "damaged evaluation":
        folder = run
        (run / "in_context_evaluation.json").write_text('{"tasks": 2}')
    elif case == "unfinished run":
        make_unfinished_run(folder, run)
    elif case == "unfinished collection":
        folder = histories
        (histories / "README.md").unlink()
    elif case == "damaged shard":
        folder = histories
        shard = histories / "DarkRoom-v0" / "train-00000.parquet"
        shard.write_bytes(shard.read_bytes()[:1000])
    elif case == "damaged collection":
        folder = histories
        (histories / "DarkRoom-v0" / "collection.json").write_text("{")
    elif case == "dataset of histories":
        folder, options = histories, ["--dataset", DATASET]
    before = snapshot(tmp_path)
    assert command(folder, "tester/refused", *options) == 2
    line = only_line(told()[1])
    assert [word for word in words if word not in line] == []
    assert snapshot(tmp_path) == before
    assert hub.repositories == {}, "nothing is created for what cannot be published"


@pytest.mark.parametrize("repo_id", ["a/b/c", "tester/na me", "tester/-x", "", "tester/", "../tester", "tester/x.git"])
def test_invalid_repository_name_is_refused_in_one_line(
    hub: LoopbackHub, run: Path, repo_id: str, told: Callable[[], tuple[str, str]]
) -> None:
    before = snapshot(run)
    assert command(run, repo_id) == 2
    only_line(told()[1])
    assert snapshot(run) == before
    assert hub.repositories == {}


@pytest.mark.parametrize("dataset", ["data/tiny", "./data", "no id at all", "a/b/c"])
def test_what_is_given_as_dataset_is_a_hub_id_or_refused(
    hub: LoopbackHub, project: Path, run: Path, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(ValueError, match=re.escape(dataset)):
        publish(run, MODEL, dataset=dataset)


@pytest.mark.parametrize(
    "token, words",
    [
        (None, ["token", "hf auth login", "HF_TOKEN"]),
        ("hf_unknown_token", ["token", "hf auth login", "HF_TOKEN"]),
        (STRANGER, ["no right", DATASET]),
    ],
)
@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_token_that_does_not_suffice_is_told_in_one_line(
    hub: LoopbackHub,
    histories: Path,
    token: str | None,
    words: list[str],
    exists: bool,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], tuple[str, str]],
) -> None:
    if exists:
        hub.write(DATASET, {"notes.md": b"mine"}, "dataset")
    if token is None:
        monkeypatch.delenv("HF_TOKEN")
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    before = snapshot(histories)
    assert command(histories, DATASET) == 2
    output, error = told()
    assert output == ""
    line = only_line(error)
    assert [word for word in words if word not in line] == []
    assert token is None or token not in line
    assert snapshot(histories) == before
    assert not exists or published(hub, DATASET, "dataset").keys() == {"notes.md"}
    assert puts(hub) == []


def test_private_repository_of_another_is_not_betrayed(
    hub: LoopbackHub, run: Path, monkeypatch: pytest.MonkeyPatch, told: Callable[[], tuple[str, str]]
) -> None:
    publish(run, MODEL, private=True)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert command(run, MODEL, "--create-pr") == 2
    only_line(told()[1])
    assert hub.pull_requests(MODEL) == []


def test_offline_mode_is_told_in_one_line(hub: LoopbackHub, run: Path, home: Path) -> None:
    before = snapshot(run)
    result = subprocess.run(
        [sys.executable, "-m", "algodistill.cli", "publish", str(run), MODEL],
        env=hub.environment(home, HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert "HF_HUB_OFFLINE" in only_line(result.stderr)
    assert result.stdout == ""
    assert hub.requests == []
    assert snapshot(run) == before


def test_hub_that_is_not_there_is_told_in_one_line(
    hub: LoopbackHub, run: Path, quick: None, monkeypatch: pytest.MonkeyPatch, told: Callable[[], tuple[str, str]]
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    api = publishing.HfApi
    monkeypatch.setattr(publishing, "HfApi", lambda **kwargs: api(endpoint="http://127.0.0.1:9", **kwargs))
    before = snapshot(run)
    assert command(run, MODEL) == 1
    assert f"algodistill publish {run} {MODEL}" in only_line(told()[1])
    assert snapshot(run) == before


# Faults


@pytest.fixture
def republished(hub: LoopbackHub, run: Path) -> Path:
    """A run's folder, an older state of which is published, with a hand-written word in its card."""
    older = shutil.copytree(run, run.parent / "older")
    change_weights(older)
    (older / "in_context_evaluation_greedy.json").write_text("{}")
    publish(older, MODEL)
    hub.write(MODEL, {"README.md": f"{card_of(hub, MODEL)}\nBy hand.\n".encode()})
    hub.requests.clear()
    result = json.loads((run / "in_context_evaluation.json").read_text())
    (run / "in_context_evaluation.json").write_text(json.dumps({**result, "seed": 77}))
    # Else the client finds the card in its cache, from the test before.
    shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE, ignore_errors=True)
    return run


def assert_republished(hub: LoopbackHub, folder: Path) -> None:
    files = published(hub, MODEL)
    assert files.keys() == MODEL_FILES
    for path in MODEL_FILES - {"README.md"}:
        assert files[path] == (folder / path).read_bytes(), path
    card = files["README.md"].decode()
    assert card.endswith("\nBy hand.\n")
    assert "seed 77" in card
    assert hub.commits(MODEL) == ["Publish checkpoint", "Upload README.md", "Publish checkpoint", "initial commit"]


@pytest.mark.parametrize("how", ["500", "503", "drop", "drop_after", "truncate", "stall"])
@pytest.mark.parametrize("step", STEPS)
def test_fault_that_passes_is_overcome(
    hub: LoopbackHub,
    republished: Path,
    quick: None,
    step: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], tuple[str, str]],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.5)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.5)
    method, path = STEPS[step]
    hub.fail(how, method=method, path=path, seconds=1)
    before = snapshot(republished)
    assert command(republished, MODEL) == 0
    assert told()[0].startswith("Published: ")
    assert hub.faults[0].times == 0
    assert_republished(hub, republished)
    assert snapshot(republished) == before


@pytest.mark.parametrize("step", ["list", "preupload", "batch", "upload"])
def test_fault_that_passes_is_not_spoken_of(
    hub: LoopbackHub, republished: Path, quick: None, step: str, told: Callable[[], tuple[str, str]]
) -> None:
    """The client's own warnings are nobody's concern."""
    method, path = STEPS[step]
    hub.fail("500", method=method, path=path)
    assert command(republished, MODEL) == 0
    assert told()[1] == ""


# What has arrived need not be verified when it is asked for again.
@pytest.mark.parametrize("how", ["503", "drop"])
@pytest.mark.parametrize("step", [step for step in STEPS if step != "verify"])
def test_fault_that_stays_is_told_in_one_line_with_how_to_continue(
    hub: LoopbackHub, republished: Path, quick: None, step: str, how: str, told: Callable[[], tuple[str, str]]
) -> None:
    method, path = STEPS[step]
    hub.fail(how, method=method, path=path, times=1000)
    before, files = snapshot(republished), hub.files(MODEL)
    assert command(republished, MODEL) == 1
    output, error = told()
    assert output == ""
    line = only_line(error)
    assert line.endswith(f"algodistill publish {republished} {MODEL}")
    assert hub.url in line
    assert "503" in line or how != "503"
    assert snapshot(republished) == before
    assert hub.files(MODEL) == files
    hub.faults.clear()
    assert command(republished, MODEL) == 0
    assert_republished(hub, republished)


def test_hub_that_never_answers_is_given_up(hub: LoopbackHub, republished: Path, quick: None) -> None:
    hub.fail("stall", method="POST", path="/commit/", times=1000, seconds=3)
    start = time.monotonic()
    with pytest.raises(HubUnavailable, match="cannot be reached"):
        publish(republished, MODEL)
    assert time.monotonic() - start < 3


def test_fault_is_raised_for_who_calls_it_from_python(hub: LoopbackHub, run: Path, quick: None) -> None:
    hub.fail("503", method="POST", path="repos/create", times=1000)
    with pytest.raises(HubUnavailable) as caught:
        publish(run, MODEL)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)


@pytest.mark.parametrize(
    "options",
    [["--private"], ["--revision", "other"], ["--create-pr"], ["--dataset", DATASET]],
    ids=lambda options: options[0],
)
def test_command_to_continue_is_the_one_that_failed(
    hub: LoopbackHub, run: Path, quick: None, options: list[str], told: Callable[[], tuple[str, str]]
) -> None:
    hub.fail("503", method="POST", path="repos/create", times=1000)
    assert command(run, MODEL, *options) == 1
    line = only_line(told()[1])
    assert [word for word in options if word not in line] == []


def test_what_was_published_before_the_connection_broke_is_not_called_unchanged(
    hub: LoopbackHub, run: Path, quick: None
) -> None:
    hub.fail("drop_after", method="POST", path="/commit/")
    assert publish(run, MODEL).changed


def test_pull_request_is_not_opened_twice(hub: LoopbackHub, run: Path, quick: None) -> None:
    publish(run, MODEL)
    change_weights(run)
    hub.fail("drop_after", method="POST", path="/commit/")
    # Whether it arrived cannot be known, so it is not sent again.
    with pytest.raises(HubUnavailable):
        publish(run, MODEL, create_pr=True)
    assert hub.pull_requests(MODEL) == [1]


def test_what_has_arrived_is_not_sent_again(hub: LoopbackHub, tmp_path: Path, quick: None) -> None:
    folder = write_histories(tmp_path / "mine", count=12, megabytes=1e-6)
    shards = sorted((folder / "Corridor-v0").glob("*.parquet"))
    late = {sha256(shards[5]), sha256(shards[11])}
    for digest in late:
        hub.fail("503", method="PUT", path=digest, times=1000)
    with pytest.raises(HubUnavailable):
        publish(folder, DATASET)
    arrived = {request.path.removeprefix("/lfs/") for request in hub.requests if request.status == 200}
    hub.faults.clear()
    hub.requests.clear()
    publish(folder, DATASET)
    assert late <= set(puts(hub))
    assert arrived & set(puts(hub)) == set()
    assert len(puts(hub)) == len(set(puts(hub)))
    files = published(hub, DATASET, "dataset")
    assert all(files[f"Corridor-v0/{shard.name}"] == shard.read_bytes() for shard in shards)
    assert len(hub.commits(DATASET, "dataset")) == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_interrupted_upload_is_continued(hub: LoopbackHub, tmp_path: Path, home: Path, how: signal.Signals) -> None:
    folder = write_histories(tmp_path / "mine", count=8, megabytes=1e-6)
    before = snapshot(folder)
    last = sha256(folder / "Corridor-v0" / "train-00007.parquet")
    hub.fail("stall", method="PUT", path=last, seconds=60)
    process = subprocess.Popen(
        [sys.executable, "-m", "algodistill.cli", "publish", str(folder), DATASET],
        env={**hub.environment(home), "MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(puts(hub)) < 8 and time.monotonic() < deadline:
            time.sleep(0.05)
        start = time.monotonic()
        process.send_signal(how)
        output, error = process.communicate(timeout=60)
    finally:
        process.kill()
    waited = time.monotonic() - start
    assert output == ""
    if how == signal.SIGINT:
        assert process.returncode == 1
        assert "again to continue" in only_line(error)
        assert waited < 4, "Ctrl-C waits for uploads that are under way"
    assert snapshot(folder) == before
    assert hub.commits(DATASET, "dataset") == ["initial commit"]
    arrived = set(puts(hub))
    assert last not in arrived
    hub.faults.clear()
    hub.requests.clear()
    publish(folder, DATASET)
    assert puts(hub) == [last]
    assert len(hub.commits(DATASET, "dataset")) == 2


# Cards


FACTS = {"license": "mit", "language": ["en"], "my-key": {"nested": [1, 2.5, None]}, "pretty_name": "Rooms, dark"}


@pytest.mark.parametrize("kind", ["histories", "run"])
def test_what_was_written_by_hand_survives(hub: LoopbackHub, kind: str, request: pytest.FixtureRequest) -> None:
    folder, repo_type = request.getfixturevalue(kind), "dataset" if kind == "histories" else "model"
    repo_id = "tester/edited"
    publish(folder, repo_id)
    _, head, text = card_of(hub, repo_id, repo_type).split("---\n", 2)
    metadata = {**yaml.safe_load(head), **FACTS}
    metadata["tags"] = ["mine", *metadata["tags"], "last"]
    above, below = "Above, in words of my own: – ü 東 🙂.\n\n---\n\n```yaml\n---\na: b\n---\n```\n\n", "\nBelow.\n   "
    between = "\n\nBetween <!-- a comment of my own -->\n\n"
    text = above + re.sub(r"(<!-- /algodistill: [^>]* -->)", rf"\1{between}", text) + below
    edited = f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{text}"
    hub.write(repo_id, {"README.md": edited.encode()}, repo_type)

    assert not publish(folder, repo_id).changed, "what was written by hand is no change"
    assert card_of(hub, repo_id, repo_type) == edited

    if repo_type == "model":
        result = json.loads((folder / "in_context_evaluation.json").read_text())
        result["episode_return"]["mean"][0] = 123.456
        (folder / "in_context_evaluation.json").write_text(json.dumps(result))
    else:
        (folder / "DarkRoom-v0" / "test-00000.parquet").unlink()
    publish(folder, repo_id)
    renewed = card_of(hub, repo_id, repo_type)
    outside = re.compile(r"<!-- algodistill: (\S+) .*?<!-- /algodistill: \1 -->", re.DOTALL)
    assert outside.sub("", renewed.split("---\n", 2)[2]) == outside.sub("", text)
    found = metadata_of(renewed)
    assert found["tags"] == metadata["tags"]
    assert {key: found[key] for key in FACTS} == FACTS
    if repo_type == "model":
        assert "| this model | 123.46 ± " in renewed
        assert found["model-index"][0]["results"][0]["metrics"][0]["value"].startswith("123.46 +/- ")
    else:
        assert [file["split"] for file in found["configs"][0]["data_files"]] == ["train", "validation"]
        assert "| `test` | 2 |" not in renewed
    assert not publish(folder, repo_id).changed


def test_hand_written_text_survives_where_the_hub_fails_while_the_card_is_read(
    hub: LoopbackHub, run: Path, quick: None
) -> None:
    """A card that was read before lies in the client's cache, and is not what is in the repository now."""
    publish(run, MODEL)
    publish(run, MODEL)
    hub.write(MODEL, {"README.md": f"{card_of(hub, MODEL)}\nBy hand.\n".encode()})
    change_weights(run)
    hub.fail("503", method="HEAD", path="README.md", times=1000)
    with pytest.raises(HubUnavailable):
        publish(run, MODEL)
    assert card_of(hub, MODEL).endswith("\nBy hand.\n")


def test_hand_written_text_survives_that_comes_in_the_middle(
    hub: LoopbackHub, run: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody edits the card on the website after it was read and before the commit."""
    publish(run, MODEL)
    change_weights(run)
    result = json.loads((run / "in_context_evaluation.json").read_text())
    result["seed"] = 77
    (run / "in_context_evaluation.json").write_text(json.dumps(result))
    fault, edited = hub.fault, []

    def edit(method: str, path: str) -> Any:
        if method == "POST" and "/commit/" in path and not edited:
            edited.append(hub.write(MODEL, {"README.md": f"{card_of(hub, MODEL)}\nBy hand.\n".encode()}))
        return fault(method, path)

    monkeypatch.setattr(hub, "fault", edit)
    publish(run, MODEL)
    assert edited
    assert "seed 77" in card_of(hub, MODEL)
    assert card_of(hub, MODEL).endswith("\nBy hand.\n")


def test_card_of_the_folder_is_where_a_new_repository_starts(hub: LoopbackHub, run: Path) -> None:
    card = (run / "README.md").read_text().replace("license: apache-2.0", "license: mit")
    (run / "README.md").write_text(f"{card}\nMy own words.\n")
    publish(run, MODEL)
    found = card_of(hub, MODEL)
    assert found.endswith("\nMy own words.\n")
    assert metadata_of(found)["license"] == "mit"
    assert f'from_pretrained("{MODEL}")' in found


SECTION_NAMES = ["checkpoint/results", "checkpoint/use", "checkpoint/making"]
OWN_CARD = "---\nlicense: mit\ntags:\n- mine\nmy-key: 1\n---\n# My own title\n\nMy own words.\n"


@pytest.mark.parametrize(
    "own",
    [
        OWN_CARD,
        OWN_CARD.replace("\n", "\r\n"),
        "\n" + OWN_CARD,
        "---\nlicense: mit\ntags: [mine]\nmy-key: 1\n---",
        "---\nlicense: mit\ntags: mine\nmy-key: 1\n---\n# My own title\n\nMy own words.\n",
    ],
    ids=["plain", "CRLF", "blank line first", "no line after metadata", "one tag as text"],
)
def test_readme_of_ones_own_gains_the_sections(hub: LoopbackHub, run: Path, own: str) -> None:
    hub.write(MODEL, {"README.md": own.encode()})
    publish(run, MODEL)
    raw = hub.files(MODEL)["README.md"].decode()
    card = ModelCard(raw)
    assert card.data.license == "mit"
    assert card.data.to_dict()["my-key"] == 1
    assert card.data.tags[0] == "mine"
    assert "algodistill" in card.data.tags and not {"m", "i", "n", "e"} & set(card.data.tags)
    assert raw.count("license: ") == 1, "metadata has become text"
    assert [raw.count(f"<!-- algodistill: {name} ") for name in SECTION_NAMES] == [1, 1, 1]
    assert ("My own words." in raw) == ("My own words." in own)
    assert not publish(run, MODEL).changed


def test_line_ends_of_a_card_stay(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL)
    windows = card_of(hub, MODEL).replace("\n", "\r\n").encode()
    hub.write(MODEL, {"README.md": windows})
    assert not publish(run, MODEL).changed or ModelCard(card_of(hub, MODEL)).data.license == "apache-2.0"
    assert card_of(hub, MODEL).count("license: apache-2.0") == 1
    assert card_of(hub, MODEL).count("<!-- algodistill: checkpoint/use ") == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"---\nlicense: [mit\n---\n# Title\n",
        b"---\n- a\n- b\n---\n# Title\n",
        b"---\nconfigs:\n- data_files: x\n---\n# Title\n",
        b"---\nconfigs: all\n---\n# Title\n",
        b"---\ntags: 3\n---\n# Title\n",
    ],
    ids=["not YAML", "a list", "a config without name", "configs as text", "tags as number"],
)
def test_card_that_cannot_be_read_is_told_in_one_line_and_stays(
    hub: LoopbackHub, histories: Path, broken: bytes, told: Callable[[], tuple[str, str]]
) -> None:
    hub.write(DATASET, {"README.md": broken}, "dataset")
    before = snapshot(histories)
    status = command(histories, DATASET)
    if status == 0:
        assert "# Title" in card_of(hub, DATASET, "dataset")
        return
    assert status == 2
    assert "card" in only_line(told()[1])
    assert published(hub, DATASET, "dataset") == {"README.md": broken}
    assert snapshot(histories) == before


@pytest.mark.parametrize(
    "line, expected",
    [
        ("language: no", "no"),
        ("language: [en, no]", ["en", "no"]),
        ("version: 1.10", "1.10"),
        ("code: 0123", "0123"),
        ("date: 2024-01-31", "2024-01-31"),
    ],
)
def test_metadata_of_ones_own_is_not_read_as_something_else(line: str, expected: Any) -> None:
    """The Hub reads YAML 1.2, in which `no` is Norwegian; what is not ours stays as it was written."""
    merged = merge_cards(f"---\n{line}\n---\nText\n", "---\nlicense: mit\n---\nText\n")
    key = line.split(":")[0]
    found = yaml.load(merged.split("---\n")[1], yaml.BaseLoader)
    assert found == {key: expected, "license": "mit"}


def section(name: str, body: str) -> str:
    return f"<!-- algodistill: {name} (from here on written anew) -->\n{body}\n<!-- /algodistill: {name} -->"


def test_section_that_lost_its_end_takes_nothing_with_it() -> None:
    generated = f"# Title\n\n{section('a', 'new')}\n\n{section('b', 'new')}\n"
    card = generated.replace("<!-- /algodistill: a -->", "") + "\nBy hand.\n"
    for _ in range(3):
        card = merge_cards(card, generated)
        assert "By hand." in card
    assert card.count(section("b", "new")) == 1
    assert merge_cards(card, generated) == card


def test_section_that_was_taken_out_stays_out() -> None:
    generated = "\n\n".join(["# Title", *(section(f"kind/{name}", "new") for name in "abc")]) + "\n"
    existing = generated.replace(section("kind/b", "new"), "My own.")
    assert merge_cards(existing, generated) == existing


LINES = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x00", exclude_categories=["Cs", "Cc"]), max_size=20
)
TEXTS = st.lists(LINES, max_size=3).map("\n".join).filter(lambda text: "algodistill:" not in text)
VALUES = st.one_of(LINES, st.integers(), st.booleans(), st.none(), st.lists(LINES, max_size=3))
METADATA = st.dictionaries(st.sampled_from(["license", "title", "extra", "zeta", "language"]), VALUES)
TAGS = st.lists(st.sampled_from(["x", "y", "algodistill", "z"]), unique=True, max_size=4)
NAMES = ["Room-v0", "checkpoint/results", "checkpoint/use"]


def front_matter(metadata: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n"


@st.composite
def cards(draw: st.DrawFn, body: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """Metadata of a card, its texts, and the names of the sections between them."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    texts = [draw(TEXTS) for _ in range(len(names) + 1)]
    return {**draw(METADATA), "tags": draw(TAGS), "model-index": [{"name": body}]}, texts, names


def written(card: tuple[dict[str, Any], list[str], list[str]], body: str) -> str:
    metadata, texts, names = card
    parts = [texts[0]]
    for name, text in zip(names, texts[1:], strict=True):
        parts += [section(name, f"{body} of {name}"), text]
    return front_matter(metadata) + "# Title\n" + "\n".join(parts)


@given(existing=cards("old"), generated=cards("new"))
@settings(max_examples=100, deadline=None)
def test_merging_renews_what_is_generated_and_nothing_else(existing: Any, generated: Any) -> None:
    generated[0]["tags"].append("algodistill-new")
    old, new = written(existing, "old"), written(generated, "new")
    merged = merge_cards(old, new)
    assert merge_cards(merged, new) == merged, "merging twice is merging once"

    found = yaml.safe_load(re.split("^---\n", merged, flags=re.MULTILINE)[1])
    for key, value in existing[0].items():
        if key not in ("tags", "model-index"):
            assert found[key] == value
    assert found["model-index"] == [{"name": "new"}]
    assert found["tags"] == list(dict.fromkeys([*existing[0]["tags"], *generated[0]["tags"]]))
    own = [key for key in found if key in existing[0]]
    assert own == list(existing[0]), "metadata keep their order"

    _, texts, names = existing
    text = merged[merged.index("# Title\n") :]
    for name in generated[2]:
        kept = name in names
        gained = name.split("/")[0] not in {other.split("/")[0] for other in names}
        assert text.count(section(name, f"new of {name}")) == (kept or gained)
    outside = re.sub(r"<!-- algodistill: (\S+) .*?<!-- /algodistill: \1 -->", "", text, flags=re.DOTALL)
    expected = "# Title\n" + "\n".join(part for text in texts for part in (text, ""))[:-1]
    assert outside.rstrip() == expected.rstrip()


@given(text=st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_is_kept_when_it_gains_the_sections(text: str) -> None:
    generated = front_matter({"license": "mit"}) + f"# Title\n\n{section('Room-v0', 'new')}\n"
    try:
        merged = merge_cards(text, generated)
    except ValueError:
        return
    assert merge_cards(merged, generated) == merged
    assert text.strip() in merged
    assert merged.count(section("Room-v0", "new")) == 1


# What a card says


def test_model_card_says_what_was_measured(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL, dataset=DATASET)
    card = ModelCard(card_of(hub, MODEL))
    card.validate()
    result = json.loads((run / "in_context_evaluation.json").read_text())
    curve = result["episode_return"]
    expected = [f"{curve['mean'][k]:.2f} +/- {curve['standard_error'][k]:.2f}" for k in (0, 2)]
    assert [entry.metric_value for entry in card.data.eval_results] == expected
    assert [entry.metric_name.split(",")[0] for entry in card.data.eval_results] == [
        "return in in-context episode 1",
        "return in in-context episode 3",
    ]
    assert {entry.dataset_type for entry in card.data.eval_results} == {result["environment"]}
    assert {entry.dataset_split for entry in card.data.eval_results} == {"test"}
    assert card.data.model_name == "checkpoint"
    assert card.data.datasets == [DATASET]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "reinforcement-learning")
    assert f"https://huggingface.co/datasets/{DATASET}" in card.text
    for value in expected:
        assert value.replace("+/-", "±") in card.text
    assert card.text.count(MODEL) >= 3


def test_dataset_that_was_named_once_is_not_forgotten(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL, dataset=DATASET)
    publish(run, MODEL)
    card = ModelCard(card_of(hub, MODEL))
    assert card.data.datasets == [DATASET]
    assert ("not published" in card.text) != (DATASET in card.text)
    assert DATASET in card.text


def test_datasets_of_the_authors_own_stay(hub: LoopbackHub, run: Path) -> None:
    hub.write(MODEL, {"README.md": b"---\ndatasets:\n- somebody/else\n---\n# Title\n"})
    publish(run, MODEL, dataset=DATASET)
    assert set(ModelCard(card_of(hub, MODEL)).data.datasets) == {"somebody/else", DATASET}


def test_results_of_the_authors_own_stay(hub: LoopbackHub, run: Path) -> None:
    publish(run, MODEL)
    metadata = metadata_of(card_of(hub, MODEL))
    own = {
        "task": {"type": "reinforcement-learning"},
        "dataset": {"name": "Maze", "type": "maze"},
        "metrics": [{"type": "mean_reward", "value": 7}],
    }
    metadata["model-index"][0]["results"].append(own)
    text = card_of(hub, MODEL).split("---\n", 2)[2]
    hub.write(MODEL, {"README.md": (front_matter(metadata) + text).encode()})
    publish(run, MODEL)
    values = [entry.metric_value for entry in ModelCard(card_of(hub, MODEL)).data.eval_results]
    assert 7 in values


def test_dataset_card_says_what_there_is(hub: LoopbackHub, histories: Path) -> None:
    publish(histories, DATASET)
    card = DatasetCard(card_of(hub, DATASET, "dataset"))
    card.validate()
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["reinforcement-learning"]
    assert card.data.license == "apache-2.0"
    (config,) = card.data.configs
    assert config["data_files"] == [
        {"split": split, "path": f"DarkRoom-v0/{split}-*.parquet"} for split in ("train", "validation", "test")
    ]
    for split, tasks, rows, steps in (("train", 5, 20, "1,000"), ("validation", 2, 8, "400"), ("test", 2, 8, "400")):
        assert f"| `{split}` | {tasks} | {rows} | {steps} |" in card.text
    returns = np.array(
        [
            np.mean([row["episode_returns"][0] for row in rows])
            for rows in by_task(pyarrow.parquet.read_table(histories / "DarkRoom-v0" / "train-00000.parquet"))
        ]
    )
    error = returns.std(ddof=1) / np.sqrt(len(returns))
    assert f"| `train` | {returns.mean():.2f} ± {error:.2f} |" in card.text
    assert f'load_dataset("{DATASET}", "DarkRoom-v0", split="train")' in card.text


def by_task(table: Any) -> list[list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        rows.setdefault(row["task"], []).append(row)
    return list(rows.values())


def test_no_path_of_this_machine_is_published(
    hub: LoopbackHub, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shutil.copytree(project / "data", tmp_path / "data") / "tiny"
    options = ["--config", write_preset(tmp_path), "--output_dir", tmp_path / "out", "--dataset", data]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, options), "--use_cpu", "true"])
    assert train_main() == 0
    publish(tmp_path / "out", MODEL)
    publish(data, DATASET)
    files = [*hub.files(MODEL).items(), *hub.files(DATASET, "dataset").items()]
    assert [path for path, content in files if str(tmp_path).encode() in content] == []


# Tokens


@pytest.fixture
def secret(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A token that is found wherever it gets to."""
    token = "hf_ThisIsNobodysBusiness0123456789"
    monkeypatch.setitem(hub.tokens, token, "tester")
    monkeypatch.setenv("HF_TOKEN", token)
    yield token


def everything(hub: LoopbackHub, folder: Path) -> dict[str, bytes]:
    """All bytes that lie in a folder, or are in any commit of the Hub."""
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for repo in hub.repositories.values():
        for commit in repo.commits.values():
            files |= {f"{repo.id} {commit.title} {path}": hub.content(blob) for path, blob in commit.tree.items()}
            files[f"{repo.id} {commit.oid}"] = f"{commit.title} {commit.message}".encode()
    return files


@pytest.mark.parametrize("debug", [False, True], ids=["quiet", "debug"])
@pytest.mark.parametrize("fault", [None, "403", "503"])
def test_token_is_told_to_nobody(
    hub: LoopbackHub,
    histories: Path,
    run: Path,
    tmp_path: Path,
    secret: str,
    debug: bool,
    fault: str | None,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], tuple[str, str]],
) -> None:
    (histories / ".env").write_text("HF_TOKEN=elsewhere")
    verbosity = huggingface_hub.logging.get_verbosity()
    if debug:
        huggingface_hub.logging.set_verbosity_debug()
        monkeypatch.setattr("huggingface_hub.constants.HF_DEBUG", True)
    if fault:
        hub.fail(fault, method="POST", path="objects/batch", times=1000)
    try:
        statuses = [command(histories, DATASET), command(run, MODEL)]
    finally:
        huggingface_hub.logging.set_verbosity(verbosity)
    assert statuses == [{None: 0, "403": 2, "503": 1}[fault]] * 2
    output, error = told()
    assert debug == ("Send: curl" in error)
    assert secret not in output + error
    assert [path for path, content in everything(hub, tmp_path).items() if secret.encode() in content] == []
    assert {request.token for request in hub.requests} - {None} == {secret}


def test_token_that_is_given_is_the_one_that_is_used(
    hub: LoopbackHub, run: Path, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    publish(run, MODEL, token=secret)
    assert {request.token for request in hub.requests} - {None} == {secret}
    with pytest.raises(ValueError) as caught:
        publish(run, MODEL, token=STRANGER)
    assert STRANGER not in str(caught.value)


def test_token_of_a_training_run_is_told_to_nobody(
    hub: LoopbackHub,
    project: Path,
    tmp_path: Path,
    secret: str,
    monkeypatch: pytest.MonkeyPatch,
    told: Callable[[], tuple[str, str]],
) -> None:
    shutil.copytree(project / "data", tmp_path / "data")
    write_preset(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN")
    options = ["--push_to_hub", "true", "--hub_model_id", MODEL, f"--hub_token={secret}", "--use_cpu", "true"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--config", "tiny.yaml", *options])
    assert train_main() == 0
    assert published(hub, MODEL).keys() == MODEL_FILES
    assert secret not in "".join(told())
    assert [path for path, content in everything(hub, tmp_path).items() if secret.encode() in content] == []
