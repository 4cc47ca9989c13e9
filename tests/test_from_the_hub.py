"""What someone does who finds histories or a checkpoint on the Hub and has never seen this repository.

Every client is the one that is installed, in a process of its own that cannot see the checkout: in an empty folder,
with a virtual environment of its own to import from.
"""

import hashlib
import io
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from commands import ROOT, write_preset
from gymnasium.spaces import Discrete
from loopback_hub import LoopbackHub

import algodistill
from algodistill.hub import write_dataset_card
from algodistill.models import AlgorithmDistillationModel, HistoryTokeniser
from algodistill.training.collecting import history_arguments, load_histories, make_collection


HISTORIES, MODEL = "tester/dark-room-histories", "tester/dark-room-agent"
ENVIRONMENT = "algodistill/DarkRoom-v0"
SPLITS = {"train": 20, "validation": 8, "test": 8}
# The tiny preset's histories, as options to a preset that comes with the package.
COLLECT = (
    *("collect", "dark_room", "--environment_kwargs", '{"size": 3, "episode_length": 5}', "--episodes", "10"),
    *("--train_tasks", "5", "--validation_tasks", "2", "--learners_per_task", "4"),
)
# Packages that a checkpoint does without: all that `algodistill` needs beside torch, transformers and numpy, and more.
UNNEEDED = (
    *("gymnasium", "datasets", "accelerate", "pyarrow", "pandas", "matplotlib", "jinja2", "tensorboard", "dill"),
    *("farama_notifications", "mpl_toolkits", "multiprocess", "hypothesis", "pytest", "_pytest"),
)


# Places to import from


def make_place(folder: Path, without: Sequence[str] = ()) -> Path:
    """A virtual environment with what is installed here, but for `algodistill` and some more; its Python."""
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    hidden = {"algodistill", *without}
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.suffix != ".pth" and re.split(r"[-.]", entry.name)[0] not in hidden:
            (site / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`algodistill` from its wheel, with what it needs."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    place = make_place(folder / "venv")
    install = [place, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, install)), check=True, capture_output=True, timeout=300)
    return place


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything but `algodistill`."""
    return make_place(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Torch, transformers and numpy, and what these need."""
    return make_place(tmp_path_factory.mktemp("bare"), UNNEEDED)


def run_at(
    place: Path, arguments: Sequence[object], hub: LoopbackHub, folder: Path, token: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a place's Python, in an empty folder at first, where nobody answers questions."""
    work = folder / "work"
    work.mkdir(parents=True, exist_ok=True)
    environment = hub.environment(folder / "home", token, OMP_NUM_THREADS="1", MPLBACKEND="agg")
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    return subprocess.run(
        [str(place), *map(str, arguments)],
        cwd=work,
        env={name: value for name, value in environment.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def printed(end: subprocess.CompletedProcess[str]) -> Any:
    """The JSON that a script printed last."""
    assert end.returncode == 0, end.stderr
    return json.loads(end.stdout.splitlines()[-1])


# Runs programs one after the other, and says how each ended: a process for each would take minutes.
PROGRAMS = """
import contextlib, io, json, sys, traceback
import algodistill.cli, algodistill.train
from algodistill.training import load_histories

def load(repository, streaming):
    histories = load_histories(repository, "train", streaming=streaming == "streaming")
    print(len(list(histories)))
    return 0

def train(*arguments):
    sys.argv = ["train.py", *arguments]
    return algodistill.train.main()

def auto(repository):
    import transformers
    for name in ("AutoConfig", "AutoModel", "AutoFeatureExtractor", "AutoProcessor"):
        part = getattr(transformers, name).from_pretrained(repository)
        print(type(part).__module__.partition(".")[0])
    return 0

def command(*arguments):
    return algodistill.cli.main(arguments)

programs = {"algodistill": command, "train.py": train, "load": load, "auto": auto}
ends = []
for program, *arguments in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = programs[program](*arguments)
        except ValueError as error:
            # The functions raise what the programs say.
            code = 2 if program == "load" else "traceback"
            print(f"algodistill: {error}" if program == "load" else traceback.format_exc(), file=sys.stderr)
        except BaseException:
            code = "traceback"
            print(traceback.format_exc(), file=sys.stderr)
    ends.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(ends))
"""


def run_programs(
    place: Path, commands: Sequence[Sequence[object]], hub: LoopbackHub, folder: Path, token: str | None = None
) -> list[tuple[int | str, str, str]]:
    """Exit code, output and complaints of each command; the folder that they are run in holds the tiny preset."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    write_preset(folder / "work")
    texts = [list(map(str, command)) for command in commands]
    return [tuple(end) for end in printed(run_at(place, ["-c", PROGRAMS, json.dumps(texts)], hub, folder, token))]


# What was published


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """A Hub that lasts as long as these tests. Files that were published through Xet come down either way."""
    with LoopbackHub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


ROAD = (
    ("algodistill", *COLLECT, "--output_dir", "data/mine"),
    ("algodistill", "publish", "data/mine", HISTORIES),
    ("train.py", "--config", "tiny.yaml", "--dataset", HISTORIES, "--streaming", "True"),
    ("algodistill", "publish", "runs/tiny", MODEL),
    ("algodistill", "evaluate", MODEL, "--episodes", "2", "--streams", "4", "--dataset", HISTORIES),
)


@pytest.fixture(scope="module")
def author(
    tmp_path_factory: pytest.TempPathFactory, installed: Path, own_hub: LoopbackHub
) -> tuple[Path, list[tuple[int | str, str, str]]]:
    """The folder in which histories and a checkpoint were made and published with the wheel, and how that went."""
    folder = tmp_path_factory.mktemp("author")
    own_hub.xet = True
    ends = run_programs(installed, ROAD, own_hub, folder, "hf_writer_token")
    own_hub.xet = False
    return folder / "work", ends


@pytest.fixture(scope="module")
def published(own_hub: LoopbackHub, author: tuple[Path, list[tuple[int | str, str, str]]]) -> LoopbackHub:
    """The Hub with the histories and the checkpoint."""
    assert own_hub.exists(HISTORIES, "dataset") and own_hub.exists(MODEL), "\n".join(end[2] for end in author[1])
    return own_hub


def card(hub: LoopbackHub, repository: str, repo_type: str) -> str:
    return hub.files(repository, repo_type)["README.md"].decode()


def code_blocks(card: str, language: str) -> list[str]:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", card, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in blocks if name == language]


def test_wheel_collects_publishes_trains_and_evaluates_from_the_hub(
    author: tuple[Path, list[tuple[int | str, str, str]]], published: LoopbackHub
) -> None:
    folder, ends = author
    assert [code for code, _, _ in ends] == [0] * len(ROAD), ends
    assert ends[1][1].startswith(f"Published: {published.url}/datasets/{HISTORIES}")
    assert "read as a stream" in ends[2][1]
    result = json.loads((folder / "evaluations" / "dark-room-agent" / "in_context_evaluation.json").read_text())
    assert result["tasks"] == 2 and result["references"]["source"] is not None
    assert f"https://huggingface.co/datasets/{HISTORIES}" in card(published, MODEL, "model")


# The cards


@pytest.mark.parametrize(
    "repository, repo_type, block, expected",
    [
        (HISTORIES, "dataset", 0, r'\{"goal": \[\d, \d\]\} \[(\d\.0(, )?){10}\]'),
        (HISTORIES, "dataset", 1, r"20 \(50, 2\)"),
        (MODEL, "model", 0, r"mean reward in the first and the last 100 steps: [01]\.\d+ [01]\.\d+"),
    ],
    ids=["rows", "windows", "acting"],
)
def test_code_of_the_card_runs_as_it_stands(
    installed: Path,
    published: LoopbackHub,
    tmp_path: Path,
    repository: str,
    repo_type: str,
    block: int,
    expected: str,
) -> None:
    code = code_blocks(card(published, repository, repo_type), "python")[block]
    end = run_at(installed, ["-c", code], published, tmp_path)
    assert end.returncode == 0, end.stderr
    assert re.fullmatch(expected, end.stdout.strip()), end.stdout


def test_cards_hold_no_code_that_is_not_run_above(published: LoopbackHub) -> None:
    assert len(code_blocks(card(published, HISTORIES, "dataset"), "python")) == 2
    assert len(code_blocks(card(published, MODEL, "model"), "python")) == 1


def test_command_of_the_dataset_card_collects_the_same_bytes(
    installed: Path, published: LoopbackHub, tmp_path: Path
) -> None:
    (command,) = code_blocks(card(published, HISTORIES, "dataset"), "")
    program, *arguments = shlex.split(command)
    assert program == "algodistill"
    end = run_at(installed, [installed.parent / program, *arguments], published, tmp_path)
    assert end.returncode == 0, end.stderr
    (folder,) = (tmp_path / "work" / "data").iterdir()
    shards = {path: content for path, content in published.files(HISTORIES, "dataset").items() if "parquet" in path}
    assert len(shards) == 3
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*.parquet")} == shards


@pytest.mark.parametrize("name", ["mine", "dark_room"])
def test_command_of_the_dataset_card_means_the_same_where_the_preset_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    folder = algodistill.collect(write_preset(tmp_path, name), tmp_path / "data", progress=False)
    (command,) = code_blocks((folder / "README.md").read_text(), "")
    (content,) = code_blocks((folder / "README.md").read_text(), "yaml")
    monkeypatch.chdir(tmp_path / "empty")
    Path("preset.yaml").write_text(content)
    _, _, preset, *options = shlex.split(command)
    collection = json.loads((folder / "DarkRoom-v0" / "collection.json").read_text())["collection"]
    again = make_collection(history_arguments(preset, options))
    assert (again.tasks, again.environment_kwargs, again.episodes, again.learners_per_task) == (
        collection["tasks"],
        collection["environment_kwargs"],
        collection["episodes"],
        collection["learners_per_task"],
    )


def test_command_of_the_model_card_names_a_program_that_the_wheel_has(published: LoopbackHub) -> None:
    (command,) = code_blocks(card(published, MODEL, "model"), "")
    assert shlex.split(command)[:4] == ["accelerate", "launch", "-m", "algodistill.train"]


@pytest.mark.parametrize("repository, repo_type", [(HISTORIES, "dataset"), (MODEL, "model")])
def test_links_of_the_card_lead_into_the_repository(published: LoopbackHub, repository: str, repo_type: str) -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", card(published, repository, repo_type))
    assert len(links) == 1
    prefix = "datasets/" if repo_type == "dataset" else ""
    with urllib.request.urlopen(f"{published.url}/{prefix}{repository}/resolve/main/{links[0]}") as answer:
        assert answer.read(8) == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("repository, repo_type", [(HISTORIES, "dataset"), (MODEL, "model")])
def test_picture_of_the_card_is_not_cut_off(published: LoopbackHub, repository: str, repo_type: str) -> None:
    (content,) = (data for path, data in published.files(repository, repo_type).items() if path.endswith(".png"))
    pixels = matplotlib.image.imread(io.BytesIO(content))
    assert pixels.shape[:2] == (600, 960)
    edges = [pixels[:3], pixels[-3:], pixels[:, :3].swapaxes(0, 1), pixels[:, -3:].swapaxes(0, 1)]
    assert [bool((edge[..., :3] == 1).all()) for edge in edges] == [True] * 4


@pytest.mark.parametrize("repository, repo_type", [(HISTORIES, "dataset"), (MODEL, "model")])
def test_tables_of_the_card_have_as_many_cells_in_every_row(
    published: LoopbackHub, repository: str, repo_type: str
) -> None:
    text = re.sub(r"^```.*?^```$", "", card(published, repository, repo_type), flags=re.DOTALL | re.MULTILINE)
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert len(tables) == {"dataset": 4, "model": 2}[repo_type]
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table
    assert "None" not in text and "{{" not in text


def test_repositories_hold_what_is_read_and_nothing_private(
    author: tuple[Path, list[tuple[int | str, str, str]]], published: LoopbackHub
) -> None:
    model, histories = published.files(MODEL), published.files(HISTORIES, "dataset")
    assert {Path(path).suffix for path in model} == {"", ".md", ".json", ".py", ".safetensors", ".png"}
    assert {Path(path).suffix for path in histories} == {"", ".md", ".json", ".parquet", ".png"}
    for path, content in {**model, **histories}.items():
        for secret in (str(author[0]), str(Path.home()), "hf_writer_token"):
            assert secret.encode() not in content, path


# Histories, with `datasets` alone

LOAD = """
import json, sys
import datasets
repository, config = sys.argv[1:]
assert "algodistill" not in sys.modules
found = {"configs": datasets.get_dataset_config_names(repository)}
builder = datasets.load_dataset_builder(repository)
found["features"] = datasets.load_dataset_builder(repository, config).info.features
for name in (None, config):
    every_split = datasets.load_dataset(repository, name)
    for split in every_split:
        table = every_split[split].with_format("arrow")[:]
        found[f"{name} {split}"] = table.to_pylist()
        one = datasets.load_dataset(repository, name, split=split)
        assert one.features == every_split[split].features and one[:] == every_split[split][:]
        stream = datasets.load_dataset(repository, name, split=split, streaming=True)
        assert list(stream.take(2)) == list(one)[:2] and len(list(stream)) == len(one)
        assert stream.features is None or stream.features == one.features
        found["features of rows"] = one.features.to_dict()
found["features"] = found["features"] and found["features"].to_dict()
print(json.dumps(found))
"""


@pytest.mark.parametrize("transfer", ["lfs", "xet"])
def test_histories_load_with_typed_columns_and_the_same_values(
    elsewhere: Path,
    author: tuple[Path, list[tuple[int | str, str, str]]],
    published: LoopbackHub,
    tmp_path: Path,
    transfer: str,
) -> None:
    published.requests.clear()
    published.xet = transfer == "xet"
    try:
        found = printed(run_at(elsewhere, ["-c", LOAD, HISTORIES, "DarkRoom-v0"], published, tmp_path))
    finally:
        published.xet = False
    assert any("xet-read-token" in request.path for request in published.requests) is (transfer == "xet")
    assert found["configs"] == ["DarkRoom-v0"]
    files = published.files(HISTORIES, "dataset")
    for split, rows in SPLITS.items():
        local = author[0] / "data" / "mine" / "DarkRoom-v0" / f"{split}-00000.parquet"
        assert files[f"DarkRoom-v0/{split}-00000.parquet"] == local.read_bytes()
        table = pa.parquet.read_table(local)
        features = datasets.Features.from_arrow_schema(table.schema)
        for name in ("None", "DarkRoom-v0"):
            assert len(table) == rows
            assert found[f"{name} {split}"] == json.loads(json.dumps(table.to_pylist()))
        assert datasets.Features.from_dict(found["features of rows"]) == features
        assert found["features"] is None or datasets.Features.from_dict(found["features"]) == features
    assert features["observations"] == datasets.Array2D((None, 2), "uint8")
    assert features["rewards"] == datasets.List(datasets.Value("float32"))


# A checkpoint, with torch, transformers and numpy alone

ACT = """
import importlib.util, json, sys
import numpy as np, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

repository, unneeded = sys.argv[1], sys.argv[2].split(",")
assert not [name for name in ["algodistill", *unneeded] if importlib.util.find_spec(name)]
sys.modules["algodistill"] = None
config, model, extractor, tokeniser = (
    auto.from_pretrained(repository, trust_remote_code=True)
    for auto in (AutoConfig, AutoModel, AutoFeatureExtractor, AutoProcessor)
)
assert extractor.to_dict() == tokeniser.to_dict() and config.test_tasks == model.config.test_tasks
steps = np.arange(12)
window = {
    "observations": np.stack([steps % 3, steps // 4], axis=1),
    "actions": steps % 5,
    "rewards": (steps % 2).astype(np.float32),
    "episode_starts": steps % 5 == 0,
}
with torch.no_grad():
    logits = model.eval()(**tokeniser([window])).logits
agent = model.agent(tokeniser, num_envs=4, seed=0)
cells, moves = np.zeros((4, 2), dtype=np.int64), np.array([[0, 0], [0, 1], [1, 0], [0, -1], [-1, 0]])
actions = []
for step in range(30):
    actions.append(agent.act(cells).tolist())
    cells = (cells + moves[actions[-1]]).clip(0, 2)
    done = np.full(4, step % 5 == 4)
    cells[done] = 0
    agent.observe((cells == 2).all(axis=1).astype(float), np.zeros(4, dtype=bool), done)
modules = {type(part).__module__.partition(".")[0] for part in (config, model, extractor, tokeniser)}
loaded = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print(json.dumps([sorted(modules), sorted(loaded), logits.tolist(), actions]))
"""


def test_checkpoint_acts_without_the_package(
    bare: Path, author: tuple[Path, list[tuple[int | str, str, str]]], published: LoopbackHub, tmp_path: Path
) -> None:
    end = run_at(bare, ["-c", ACT, MODEL, ",".join(UNNEEDED)], published, tmp_path)
    modules, loaded, logits, actions = printed(end)
    assert modules == ["transformers_modules"]
    assert not {"algodistill", *UNNEEDED} & set(loaded)
    checkpoint = author[0] / "runs" / "tiny"
    model, tokeniser = (part.from_pretrained(checkpoint) for part in (AlgorithmDistillationModel, HistoryTokeniser))
    steps = np.arange(12)
    window = {
        "observations": np.stack([steps % 3, steps // 4], axis=1),
        "actions": steps % 5,
        "rewards": (steps % 2).astype(np.float32),
        "episode_starts": steps % 5 == 0,
    }
    with torch.no_grad():
        expected = model.eval()(**tokeniser([window])).logits
    assert expected.shape == (1, 12, 5)
    torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-6, atol=1e-6)
    assert np.shape(actions) == (30, 4) and len(np.unique(actions)) > 1 and np.isin(actions, range(5)).all()


# Code that comes with a repository

BOMBED = "tester/bombed"
AUTO_CLASSES = """
import json, sys
import transformers
found, options = {}, {"trust_remote_code": True} if "trusted" in sys.argv else {}
for name in ("AutoConfig", "AutoModel", "AutoFeatureExtractor", "AutoProcessor"):
    try:
        part = getattr(transformers, name).from_pretrained(sys.argv[1], **options)
        found[name] = type(part).__module__.partition(".")[0]
    except Exception as error:
        found[name] = type(error).__name__
print()  # after the questions that were asked
print(json.dumps(found))
"""


@pytest.fixture
def bomb(published: LoopbackHub, tmp_path: Path) -> Path:
    """The file that appears once code of the repository `BOMBED` is executed, however it is led to."""
    path = tmp_path / "boom"
    files = {name: content for name, content in published.files(MODEL).items() if name != ".gitattributes"}
    explosion = f"open({str(path)!r}, 'w').close()\n".encode()
    files |= {name: explosion + content for name, content in files.items() if name.endswith(".py")}
    files |= {name: explosion for name in ("evil.py", "__init__.py", "train.py", "algodistill.py", "setup.py")}
    config = json.loads(files["config.json"])
    evil = {f"Auto{kind}": "evil.Evil" for kind in ("Tokenizer", "Processor", "ImageProcessor", "ModelForCausalLM")}
    config["auto_map"] |= evil
    config["text_config"]["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    preprocessor = json.loads(files["preprocessor_config.json"])
    preprocessor["auto_map"] |= evil
    files["config.json"] = json.dumps(config).encode()
    files["preprocessor_config.json"] = json.dumps(preprocessor).encode()
    published.write(BOMBED, files)
    return path


def test_nothing_of_a_repository_is_executed_where_the_package_is_installed(
    installed: Path, published: LoopbackHub, bomb: Path, tmp_path: Path
) -> None:
    commands = (
        ("auto", BOMBED),
        ("algodistill", "evaluate", BOMBED, "--episodes", "1", "--streams", "2"),
        ("train.py", "--config", "tiny.yaml", "--dataset", HISTORIES, "--model_name_or_path", BOMBED),
    )
    ends = run_programs(installed, commands, published, tmp_path)
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    assert ends[0][1].split() == ["algodistill"] * 4
    # What the trained checkpoint takes along is the package's code, not what was found.
    assert not bomb.exists()
    assert b"boom" not in b"".join(path.read_bytes() for path in (tmp_path / "work" / "runs" / "tiny").glob("*.py"))


def test_without_the_package_code_is_executed_only_where_it_is_trusted(
    bare: Path, published: LoopbackHub, bomb: Path, tmp_path: Path
) -> None:
    found = printed(run_at(bare, ["-c", AUTO_CLASSES, BOMBED], published, tmp_path))
    assert set(found.values()) == {"ValueError"} and len(found) == 4
    assert not bomb.exists()
    found = printed(run_at(bare, ["-c", AUTO_CLASSES, BOMBED, "trusted"], published, tmp_path))
    assert found["AutoModel"] == "transformers_modules"
    # The bomb is a real one.
    assert bomb.exists()


# Files of other formats


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def saved_by_torch(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def arrow_file() -> bytes:
    file = io.BytesIO()
    table = pa.table({"id": ["a"], "rewards": [[1.0]]})
    with pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return file.getvalue()


def tar_file(pickled: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for sample in range(2):
            for suffix in ("pyd", "pickle", "pth"):
                info = tarfile.TarInfo(f"{sample}.{suffix}")
                info.size = len(pickled)
                archive.addfile(info, io.BytesIO(pickled))
    return file.getvalue()


def other_dataset(case: str, bomb: Path) -> dict[str, bytes]:
    pickled, code = pickle.dumps(Bomb(bomb)), f"open({str(bomb)!r}, 'w')\n".encode()
    declared = b"---\nconfigs:\n- config_name: DarkRoom-v0\n  data_files:\n  - split: train\n    path: %s\n---\n"
    return {
        "pickle": {"train.pkl": pickled, "data/test-00000.pickle": pickled},
        "numpy": {"train.npy": pickled},
        "torch": {"train.pt": saved_by_torch(Bomb(bomb))},
        "script": {f"data-{case}.py": code},
        "script-beside-its-data": {f"data-{case}.py": code, "train.csv": b"id\na\n"},
        "arrow": {"train.arrow": arrow_file()},
        "json": {"train.json": b'{"id": "a"}\n'},
        "csv": {"train.csv": b"id\na\n"},
        "text": {"train.txt": b"a\n"},
        "webdataset": {"train.tar": tar_file(pickled)},
        "declared-json": {"README.md": declared % b"x.json", "x.json": b'{"id": "a"}\n'},
        "declared-outside": {"README.md": declared % b"../../../../../etc/host*"},
        "declared-parquet-that-is-pickle": {"README.md": declared % b"x.parquet", "x.parquet": pickled},
        "empty": {"notes.md": b"none\n"},
    }[case]


OTHER_DATASETS = (
    *("pickle", "numpy", "torch", "script", "script-beside-its-data", "arrow", "json", "csv", "text", "webdataset"),
    *("declared-json", "declared-outside", "declared-parquet-that-is-pickle", "empty"),
)


def other_model(case: str, bomb: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """A checkpoint that is not as it should be."""
    weights, bombed = files["model.safetensors"], saved_by_torch({"action_head.bias": Bomb(bomb)})
    config = json.loads(files["config.json"])
    rest = {name: files[name] for name in ("config.json", "preprocessor_config.json")}
    bias = torch.zeros(5)
    index = {"metadata": {}, "weight_map": {"action_head.bias": "shard.bin"}}
    pickled_index = json.dumps(index).encode()
    return {
        "torch-pickle": {**rest, "pytorch_model.bin": bombed},
        "plain-pickle": {**rest, "pytorch_model.bin": pickle.dumps(Bomb(bomb))},
        "index-of-pickles": {**rest, "pytorch_model.bin.index.json": pickled_index, "shard.bin": bombed},
        "safetensors-index-of-pickles": {
            **rest,
            "model.safetensors.index.json": pickled_index,
            "shard.bin": bombed,
        },
        "safetensors-index-of-harmless-pickles": {
            **rest,
            "model.safetensors.index.json": pickled_index,
            "shard.bin": saved_by_torch({"action_head.bias": bias}),
        },
        "pickle-called-safetensors": {**rest, "model.safetensors": bombed},
        "half-the-weights": {**rest, "model.safetensors": weights[: len(weights) // 2]},
        "no-weights": rest,
        "some-of-the-weights": {**rest, "model.safetensors": safetensors.torch.save({"action_head.bias": bias})},
        "no-tokeniser": {"config.json": rest["config.json"], "model.safetensors": weights},
        "tokeniser-without-spaces": {**rest, "model.safetensors": weights, "preprocessor_config.json": b"{}"},
        "config-that-is-a-list": {**rest, "model.safetensors": weights, "config.json": b"[]"},
        "config-of-other-sizes": {
            **rest,
            "model.safetensors": weights,
            "config.json": json.dumps({**config, "observation_sizes": [4, 4]}).encode(),
        },
        "config-of-another-model": {**rest, "config.json": json.dumps({**config, "model_type": "bert"}).encode()},
        "environment-that-is-not-here": {
            **rest,
            "model.safetensors": weights,
            "config.json": json.dumps({**config, "environment": "antigravity:Nowhere-v0"}).encode(),
        },
    }[case]


OTHER_MODELS = (
    *("torch-pickle", "plain-pickle", "index-of-pickles", "safetensors-index-of-pickles"),
    *("safetensors-index-of-harmless-pickles", "pickle-called-safetensors", "half-the-weights", "no-weights"),
    "some-of-the-weights",
    *("no-tokeniser", "tokeniser-without-spaces", "config-that-is-a-list", "config-of-other-sizes"),
    *("config-of-another-model", "environment-that-is-not-here"),
)

READING_A_DATASET: dict[str, tuple[str, ...]] = {
    "load_histories": ("load", "ID", "whole"),
    "load_histories-streaming": ("load", "ID", "streaming"),
    "train": ("train.py", "--config", "tiny.yaml", "--output_dir", "runs/ID", "--dataset", "ID"),
    "evaluate": ("algodistill", "evaluate", MODEL, "--episodes", "1", "--streams", "2", "--dataset", "ID"),
}
READING_A_MODEL: dict[str, tuple[str, ...]] = {
    "evaluate": ("algodistill", "evaluate", "ID", "--episodes", "1", "--streams", "2"),
    "train": (
        *("train.py", "--config", "tiny.yaml", "--output_dir", "runs/ID", "--dataset", HISTORIES),
        *("--model_name_or_path", "ID"),
    ),
}


@pytest.fixture(scope="module")
def refusals(
    tmp_path_factory: pytest.TempPathFactory, installed: Path, published: LoopbackHub
) -> dict[tuple[str, str], tuple[int | str, str, str, bool]]:
    """How each command ended on each of these repositories, and whether something in one was executed."""
    folder = tmp_path_factory.mktemp("refusals")
    commands: dict[tuple[str, str], list[str]] = {}
    for cases, readers, repo_type in (
        (OTHER_DATASETS, READING_A_DATASET, "dataset"),
        (OTHER_MODELS, READING_A_MODEL, "model"),
    ):
        for case in cases:
            repository, bomb = f"tester/data-{case}" if repo_type == "dataset" else f"tester/{case}", folder / case
            if repo_type == "dataset":
                files = other_dataset(case, bomb)
            else:
                files = other_model(case, bomb, published.files(MODEL))
            published.write(repository, files, repo_type)
            for reader, command in readers.items():
                commands[reader, repository] = [word.replace("ID", repository) for word in command]
    ends = run_programs(installed, list(commands.values()), published, folder)
    return {
        (reader, repository): (*end, (folder / repository.removeprefix("tester/").removeprefix("data-")).exists())
        for (reader, repository), end in zip(commands, ends, strict=True)
    }


def check_refusal(end: tuple[int | str, str, str, bool]) -> None:
    code, _, complaint, executed = end
    assert not executed
    assert code == 2, complaint
    lines = [line for line in complaint.splitlines() if line.startswith("algodistill: ")]
    assert len(lines) == 1 and "Traceback" not in complaint, complaint
    assert len(lines[0]) < 600, lines[0]


@pytest.mark.parametrize("reader", READING_A_DATASET)
@pytest.mark.parametrize("case", OTHER_DATASETS)
def test_dataset_of_another_format_is_refused_in_one_line(
    refusals: dict[tuple[str, str], tuple[int | str, str, str, bool]], case: str, reader: str
) -> None:
    check_refusal(refusals[reader, f"tester/data-{case}"])


@pytest.mark.parametrize("reader", READING_A_MODEL)
@pytest.mark.parametrize("case", OTHER_MODELS)
def test_checkpoint_that_is_not_as_it_should_be_is_refused_in_one_line(
    refusals: dict[tuple[str, str], tuple[int | str, str, str, bool]], case: str, reader: str
) -> None:
    if (case, reader) == ("environment-that-is-not-here", "train"):
        pytest.skip("a checkpoint to start from is trained in the preset's environment")
    check_refusal(refusals[reader, f"tester/{case}"])


def test_bombs_of_other_formats_are_real(tmp_path: Path) -> None:
    bomb = tmp_path / "boom"
    pickle.loads(other_dataset("pickle", bomb)["train.pkl"])
    assert bomb.exists()
    bomb.unlink()
    torch.load(io.BytesIO(other_dataset("torch", bomb)["train.pt"]), weights_only=False)
    assert bomb.exists()


# Names


ODD_NAMES = (
    *("my-test-env", "Test", "a/train", "space in it-v0", "Zoë/Räume-v0", "module:Env-v0", "a*b?[c]", "{{ 7 * 7 }}"),
    *("..", "a/..", ".", "a/", "", ".hidden-v0", "__main__", "-v0", "../../outside-v0", "null", "x|y-->", "0123"),
)


def write_histories(folder: Path, environment: str, algorithm: str = "guessing") -> None:
    with algodistill.HistoryWriter(
        folder, Discrete(3), Discrete(2), environment=environment, algorithm=algorithm
    ) as writer:
        for split in ("train", "test"):
            for seed in range(2):
                with writer.record(task={"goal": split}, seed=seed, split=split) as history:
                    for step in range(4):
                        history.append(step % 3, seed, float(step), step % 2 == 1, False)


@pytest.mark.parametrize("environment", ODD_NAMES)
def test_histories_of_an_environment_with_an_odd_name_stay_in_their_folder_and_are_found(
    hub: LoopbackHub, tmp_path: Path, environment: str
) -> None:
    folder = tmp_path / "data" / "mine"
    write_histories(folder, environment)
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.parquet")]
    assert len(written) == 2
    # In a folder of their own, within the one that was asked for.
    assert {path.parts[:2] for path in written} == {("data", "mine")} and {len(path.parts) for path in written} == {4}
    assert len(load_histories(folder, "train", environment)) == 2

    repository = f"tester/odd-{hashlib.sha256(environment.encode()).hexdigest()[:8]}"
    algodistill.publish(folder, repository)
    assert all(".." not in Path(path).parts for path in hub.files(repository, "dataset"))
    found = datasets.load_dataset(repository)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 2, "test": 2}
    assert found["test"].unique("environment") == [environment]
    assert found["test"].unique("task") == ['{"goal": "test"}']


@pytest.mark.parametrize(
    "environment, algorithm",
    [
        ("Plain-v0", '<img src="x" onerror="alert(1)">'),
        ("Plain-v0", "ppo\n\n# A heading"),
        ('<img src="x" onerror="alert(1)">', "ppo"),
        ("Env\n\n# A heading", "ppo"),
    ],
)
def test_names_do_not_become_markup_of_the_card(
    hub: LoopbackHub, tmp_path: Path, environment: str, algorithm: str
) -> None:
    write_histories(tmp_path / "mine", environment, algorithm)
    algodistill.publish(tmp_path / "mine", "tester/markup")
    text = card(hub, "tester/markup", "dataset").split("\n---\n", 1)[1]
    outside_code = re.sub(r"`[^`\n]*`", "", text)
    assert "<img" not in outside_code
    assert not re.search(r"^# A heading", text, flags=re.MULTILINE)


def test_histories_without_a_complete_episode_are_published(hub: LoopbackHub, tmp_path: Path) -> None:
    with algodistill.HistoryWriter(
        tmp_path / "mine", Discrete(3), Discrete(2), environment="Endless-v0", algorithm="guessing"
    ) as writer:
        with writer.record(task={}) as history:
            for step in range(4):
                history.append(step % 3, 0, 1.0, False, False)
    algodistill.publish(tmp_path / "mine", "tester/endless")
    assert "## Endless-v0" in card(hub, "tester/endless", "dataset")
    assert len(load_histories("tester/endless", "train")) == 1


@pytest.mark.parametrize("name", ["../outside", "tester/..", "tester/../other", "a/b/c", "/etc/passwd", "tester/a b"])
def test_repository_with_an_impossible_name_is_refused_before_anything_is_sent(
    hub: LoopbackHub, tmp_path: Path, name: str
) -> None:
    write_histories(tmp_path / "mine", "Plain-v0")
    with pytest.raises(ValueError, match="(?i)repo"):
        algodistill.publish(tmp_path / "mine", name)
    assert not [request for request in hub.requests if request.method != "GET"]


def test_what_lies_behind_a_link_is_not_published_unless_it_is_the_checkpoints(
    hub: LoopbackHub, author: tuple[Path, list[tuple[int | str, str, str]]], tmp_path: Path
) -> None:
    # As in the Hub's cache, where a snapshot is a folder of links.
    run = tmp_path / "run"
    run.mkdir()
    shutil.copytree(author[0] / "runs" / "tiny", tmp_path / "store")
    for file in (tmp_path / "store").iterdir():
        (run / file.name).symlink_to(file)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key.json").write_text("secret")
    (run / "notes.json").symlink_to(tmp_path / "secret" / "key.json")
    (run / "more").symlink_to(tmp_path / "secret")
    algodistill.publish(run, "tester/links")
    files = hub.files("tester/links")
    assert files["model.safetensors"] == (tmp_path / "store" / "model.safetensors").read_bytes()
    assert not [path for path, content in files.items() if content == b"secret"]
    assert "training_args.bin" not in files


def test_long_card_that_was_there_already_is_kept_and_takes_no_time(tmp_path: Path) -> None:
    write_histories(tmp_path / "mine", "Plain-v0")
    own = "".join(f"<!-- algodistill: {number} \nA line of my own.\n" for number in range(4000))
    (tmp_path / "mine" / "README.md").write_text(f"---\nlicense: mit\n---\n{own}")
    start = time.monotonic()
    write_dataset_card(tmp_path / "mine")
    # Square in the number of lines it would be many seconds.
    assert time.monotonic() - start < 3
    text = (tmp_path / "mine" / "README.md").read_text()
    assert own in text and "## Plain-v0" in text and "license: mit" in text
