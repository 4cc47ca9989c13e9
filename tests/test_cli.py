"""The programs as a user meets them: help, wrong input, failures; one plain line and the right exit code."""

import errno
import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from commands import ROOT, TINY_PRESET, algodistill, program_environment, train, write_preset
from transformers import GPT2Config, GPT2Model

from algodistill import cli
from algodistill.outcomes import exit_code
from algodistill.train import main as train_main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny preset, which is where the user is."""
    write_preset(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def collected(folder: Path) -> Path:
    assert cli.main(["collect", "tiny.yaml"]) == 0
    return folder / "data" / "tiny"


def only_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("algodistill: ")
    assert not any("Traceback" in line for line in lines)
    return lines[-1]


def train_in_process(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *options])
    return train_main()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], ["collect", "evaluate"]),
        (["collect"], ["PRESET", "--output_dir", "data/PRESET", "--learners_per_task"]),
        (["evaluate"], ["MODEL", "--episodes", "--streams", "--seed", "--action_selection", "--tasks", "--dataset"]),
        (["evaluate"], ["--prompt-from", "--prompt-quantile", "--prompt-steps", "--target_return"]),
    ],
)
def test_help_suffices(arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert [word for word in words if word not in shown] == []


def test_help_of_training_names_every_setting(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "--help"], capture_output=True, text=True, env=program_environment()
    )
    assert result.returncode == 0
    other_keys = ["config", "dataset", "model_name_or_path", "output_dir", "layout", "token_masking", "recipe"]
    other_keys += ["expert_share", "expert_quantile", "target_return", "prompt_quantile"]
    for key in [*TINY_PRESET, *other_keys]:
        assert f"--{key}" in result.stdout


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"learners": 3}, ["tiny.yaml", "learners"]),
        ({"train_tasks": "many"}, ["train_tasks", "many"]),
        ({"train_tasks": 9, "validation_tasks": 1}, ["train_tasks=9", "9 tasks"]),
        ({"environment": "algodistill/Nowhere-v0"}, ["algodistill/Nowhere-v0"]),
        ({"environment_kwargs": {"size": 3, "depth": 2}}, ["environment_kwargs", "depth"]),
        ({"environment_kwargs": {"size": 3, "start": [3, 0]}}, ["start", "[3, 0]", "3x3"]),
        ({"source": "magic"}, ["magic", "q_learning"]),
        ({"source_kwargs": {"speed": 1}}, ["source_kwargs", "speed"]),
        ({"source_kwargs": {"discount": 2}}, ["discount=2"]),
        ({"episodes": 0}, ["episodes=0"]),
    ],
)
def test_wrong_preset_is_told_in_one_line(
    folder: Path, settings: dict, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_preset(folder, **settings)
    assert cli.main(["collect", "tiny.yaml"]) == 2
    line = only_line(capsys)
    assert [word for word in words if word not in line] == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [1", ["cannot be read as YAML"]),
        ("a: 1\na: 2", ["'a' is given twice"]),
        ("- 1", ["not a mapping"]),
        ("", ["not a mapping"]),
    ],
)
def test_file_that_is_no_preset_is_refused(
    folder: Path, text: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tiny.yaml").write_text(text)
    assert cli.main(["collect", "tiny.yaml"]) == 2
    assert words[0] in only_line(capsys)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "dark_room"]),
        ([], ["--config"]),
        (["--config", "tiny.yaml", "--learning-rat", "1"], ["--learning-rat"]),
        (["--config", "tiny.yaml", "--max_steps", "few"], ["max_steps", "few"]),
        (["--config", "tiny.yaml", "--context_length", "0"], ["context_length=0", "at least 1"]),
        (["--config", "tiny.yaml", "--layout", "pairs"], ["layout='pairs'", "interleaved"]),
        (["--config", "tiny.yaml", "--label_smoothing", "1.5"], ["label_smoothing=1.5"]),
        (["--config", "tiny.yaml", "--start_share", "2"], ["start_share=2"]),
        (["--config", "tiny.yaml", "--first_episode", "10"], ["No transition", "10"]),
        (["--config", "tiny.yaml", "--dataset", "nowhere/at-all"], ["nowhere/at-all"]),
        (["--config", "tiny.yaml", "--model_name_or_path", "nowhere"], ["nowhere"]),
        (["--config", "tiny.yaml", "--decoder", "{"], ["decoder"]),
        (["--config", "tiny.yaml", "--decoder", '{"model_type": "abacus"}'], ["abacus"]),
        (["--config", "tiny.yaml", "--recipe", "cot"], ["recipe='cot'", "'ed'", "'return_conditioned'"]),
        (["--config", "tiny.yaml", "--recipe", "ed", "--expert_share", "2"], ["expert_share=2"]),
        (["--config", "tiny.yaml", "--recipe", "ed", "--expert_share", "0"], ["No transition", "expert_share=0.0"]),
        (["--config", "tiny.yaml", "--recipe", "gato", "--expert_quantile", "-1"], ["expert_quantile=-1"]),
        (["--config", "tiny.yaml", "--recipe", "return_conditioned", "--expert_share", "2"], ["expert_share=2"]),
        (["--config", "tiny.yaml", "--recipe", "return_conditioned", "--target_return", "nan"], ["target_return=nan"]),
        (["--config", "tiny.yaml", "--recipe", "return_conditioned", "--target_return", "much"], ["target_return"]),
        (["--config", "tiny.yaml", "--prompt_quantile", "3"], ["quantile 3", "from 0 to 1"]),
        (["--config", "tiny.yaml", "--recipe", "gato", "--test_streams", "3"], ["streams=3", "2 or 4"]),
    ],
)
def test_wrong_training_option_is_told_in_one_line(
    folder: Path,
    options: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert train_in_process(monkeypatch, *options) == 2
    line = only_line(capsys)
    assert [word for word in words if word not in line] == []
    # A mistake leaves nothing behind that the corrected command would stumble over.
    assert not (folder / "runs" / "tiny" / "settings.json").exists()


def test_dataset_lacking_a_column_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = collected(folder)
    for file in (data / "DarkRoom-v0").glob("*.parquet"):
        pa.parquet.write_table(pa.parquet.read_table(file).drop_columns("rewards"), file)
    assert train_in_process(monkeypatch, "--config", "tiny.yaml", "--dataset", str(data)) == 2
    assert "rewards" in only_line(capsys)


def test_histories_of_another_environment_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = collected(folder)
    for file in (data / "DarkRoom-v0").glob("*.parquet"):
        table = pa.parquet.read_table(file)
        index = table.column_names.index("environment")
        names = pa.array(["Elsewhere-v0"] * len(table))
        pa.parquet.write_table(table.set_column(index, table.schema.field(index), names), file)
    assert train_in_process(monkeypatch, "--config", "tiny.yaml", "--dataset", str(data)) == 2
    line = only_line(capsys)
    assert "Elsewhere-v0" in line and "algodistill/DarkRoom-v0" in line


def test_histories_of_a_larger_room_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_preset(
        folder, "large", environment_kwargs={"size": 9, "episode_length": 5}, source_kwargs={"epsilon_start": 1}
    )
    assert cli.main(["collect", "large.yaml"]) == 0
    assert train_in_process(monkeypatch, "--config", "tiny.yaml", "--dataset", "data/large") == 2
    assert "outside the space" in only_line(capsys)


def test_truncated_parquet_is_named_and_collected_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = collected(folder) / "DarkRoom-v0" / "train-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    assert train_in_process(monkeypatch, "--config", "tiny.yaml", "--max_steps", "1") == 2
    line = only_line(capsys)
    assert "train-00000.parquet" in line and "Delete it" in line
    shard.unlink()
    assert cli.main(["collect", "tiny.yaml"]) == 0
    assert shard.read_bytes() == whole


def test_histories_collected_anew_are_those_that_are_read(folder: Path) -> None:
    """`datasets` caches what it has read of a folder: it must not hand out what lay there before."""
    data = collected(folder)
    before = datasets.load_dataset(str(data), split="train")["actions"]
    shutil.rmtree(data)
    write_preset(folder, collect_seed=1)
    collected(folder)
    assert datasets.load_dataset(str(data), split="train")["actions"] != before


def test_changed_preset_does_not_meet_old_histories(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    collected(folder)
    write_preset(folder, episodes=11)
    assert cli.main(["collect", "tiny.yaml"]) == 2
    line = only_line(capsys)
    assert "data/tiny" in line and "(episodes)" in line and "delete" in line


def test_collecting_takes_options_over_the_preset(folder: Path) -> None:
    assert cli.main(["collect", "tiny.yaml", "--output_dir", "here", "--episodes", "3"]) == 0
    assert json.loads((folder / "here" / "DarkRoom-v0" / "collection.json").read_text())["collection"]["episodes"] == 3


@pytest.mark.parametrize(
    "options, words",
    [
        (["nowhere"], ["nowhere"]),
        (["gpt2"], ["gpt2", "algodistill"]),
        (["model", "--episodes", "0"], ["episodes=0"]),
        (["model", "--streams", "3"], ["streams=3", "2 or 4"]),
        (["model", "--context_length", "0"], ["context_length=0"]),
        (["model", "--tasks", "[{"], ["--tasks"]),
        (["model", "--tasks", "[]"], ["no task"]),
        (["model", "--tasks", '[{"goal": [0, 3]}]'], ["[0, 3]", "3x3"]),
        (["model", "--tasks", '[{"door": [0, 3]}]'], ["door"]),
        (["model", "--dataset", "nowhere/at-all"], ["nowhere/at-all"]),
    ],
)
def test_wrong_evaluation_is_told_in_one_line(
    folder: Path, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if options[0] == "gpt2":
        GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=8, n_positions=8)).save_pretrained("gpt2")
    elif options[0] == "model":
        save_tiny_model(Path("model"))
    assert cli.main(["evaluate", *options]) == 2
    line = only_line(capsys)
    assert [word for word in words if word not in line] == []
    assert not Path("evaluations").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--streaming", "True", "--max_steps", "2"], ["leave out --streaming"]),
        (["--streaming", "False"], ["split 'test'", "data/tiny"]),
    ],
)
def test_training_without_histories_to_take_prompts_from_is_refused(
    folder: Path,
    options: list[str],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = collected(folder)
    if "False" in options:
        (data / "DarkRoom-v0" / "test-00000.parquet").unlink()
    for asked in (["--recipe", "gato"], ["--prompt_quantile", "0.5"]):
        assert train_in_process(monkeypatch, "--config", "tiny.yaml", "--dataset", "data/tiny", *asked, *options) == 2
        line = only_line(capsys)
        assert [word for word in words if word not in line] == []
    assert not (folder / "runs" / "tiny").exists()


def test_missing_history_of_a_test_task_is_found_before_training(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (shard,) = (collected(folder) / "DarkRoom-v0").glob("test-*.parquet")
    table = pa.parquet.read_table(shard)
    missing = table["task"][0].as_py()
    pa.parquet.write_table(table.filter(pa.compute.not_equal(table["task"], missing)), shard)
    options = ["--config", "tiny.yaml", "--dataset", "data/tiny", "--recipe", "gato"]
    assert train_in_process(monkeypatch, *options) == 2
    assert f"no history of the task {missing}" in only_line(capsys)
    assert not (folder / "runs" / "tiny").exists()


@pytest.mark.parametrize(
    "options, words",
    [
        (["--prompt-from", "nowhere/at-all"], ["nowhere/at-all"]),
        (["--prompt-from", "data/tiny", "--prompt-quantile", "1.5"], ["quantile 1.5", "from 0 to 1"]),
        (["--prompt-from", "data/tiny", "--prompt-quantile", "nan"], ["quantile nan"]),
        (["--prompt-from", "data/tiny", "--prompt-steps", "0"], ["0 steps", "at least 1"]),
        (["--prompt-from", "data/tiny", "--streams", "3"], ["streams=3", "2 or 4"]),
        (["--prompt-from", "data/tiny", "--tasks", "[]"], ["no task"]),
        (["--prompt-from", "data/tiny", "--tasks", '[{"goal": [0, 3]}]'], ["[0, 3]", "3x3"]),
        (["--prompt-from", "data/train"], ["data/train", "no histories of test tasks"]),
        (["--prompt-from", "data/some", "--streams", "2"], ["no history of the task", "goal"]),
        (["--prompt-quantile", "0.5"], ["--prompt-quantile", "--prompt-from"]),
        (["--prompt-steps", "5"], ["--prompt-steps", "--prompt-from"]),
        (["--target_return", "2"], ["target_return", "not conditioned"]),
    ],
)
def test_wrong_prompt_is_told_in_one_line(
    folder: Path, options: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_model(Path("model"))
    data = collected(folder)
    for name in ("train", "some"):
        shutil.copytree(data, data.parent / name)
        (shard,) = (data.parent / name / "DarkRoom-v0").glob("test-*.parquet")
        table = pa.parquet.read_table(shard)
        shard.unlink()
        if name == "some":
            pa.parquet.write_table(table.filter(pa.compute.equal(table["task"], table["task"][0])), shard)
    assert cli.main(["evaluate", "model", "--episodes", "1", *options]) == 2
    line = only_line(capsys)
    assert [word for word in words if word not in line] == []
    assert not Path("evaluations").exists()


def test_prompted_evaluation_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_model(folder / "model")
    collected(folder)
    file = folder / "evaluations" / "model" / "in_context_evaluation.json"
    options = ["evaluate", "model", "--episodes", "2", "--streams", "4"]
    results = []
    for prompted in (
        [],
        ["--prompt-from", "data/tiny"],
        ["--prompt-from", "data/tiny", "--prompt-quantile", "1", "--prompt-steps", "10"],
        ["--prompt_from", "data/tiny", "--prompt_quantile", "1", "--prompt_steps", "10"],
    ):
        assert cli.main([*options, *prompted]) == 0
        results.append({**json.loads(file.read_text()), "wall_seconds": 0})
        assert ("prompted with" in capsys.readouterr().out) == bool(prompted)
    plain, half, dashes, underscores = results
    assert "prompt" not in plain
    assert (half["prompt"]["quantile"], half["prompt"]["steps"]) == (0.5, 5.0)
    assert (dashes["prompt"]["quantile"], dashes["prompt"]["steps"]) == (1.0, 10.0)
    assert dashes == underscores


def test_target_return_from_the_command_line(folder: Path) -> None:
    save_tiny_model(folder / "model", "--recipe", "return_conditioned", "--target_return", "3")
    file = folder / "evaluations" / "model" / "in_context_evaluation.json"
    for options, expected in (([], 3.0), (["--target_return", "-1.5"], -1.5)):
        assert cli.main(["evaluate", "model", "--episodes", "1", "--streams", "2", *options]) == 0
        assert json.loads(file.read_text())["target_return"] == expected


def test_histories_of_another_environment_give_no_curve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny_model(folder / "model")
    write_preset(folder, "other", environment="algodistill/DarkRoomHard-v0")
    assert cli.main(["collect", "other.yaml"]) == 0
    assert cli.main(["evaluate", "model", "--episodes", "1", "--streams", "2", "--dataset", "data/other"]) == 2
    assert "expected only algodistill/DarkRoom-v0" in only_line(capsys)


def save_tiny_model(path: Path, *options: str) -> None:
    from algodistill.training.building import make_model
    from algodistill.training.job import parse_job

    for part in make_model(parse_job(["--config", "tiny.yaml", *options])):
        part.save_pretrained(path)


def test_evaluation_from_the_command_line(folder: Path) -> None:
    save_tiny_model(folder / "model")
    collected(folder)
    result = algodistill(
        folder, "evaluate", "model", "--episodes", "4", "--streams", "6", "--seed", "3", "--dataset", "data/tiny"
    )
    assert result.returncode == 0, result.stderr
    assert "episode" in result.stdout and "optimal" in result.stdout and "source" in result.stdout
    written = json.loads((folder / "evaluations" / "model" / "in_context_evaluation.json").read_text())
    assert (written["episodes"], written["streams"], written["seed"], written["tasks"]) == (4, 6, 3, 2)
    assert (folder / "evaluations" / "model" / "learning_curve.png").stat().st_size > 5000


def test_full_disk_ends_in_one_line_and_loses_nothing(folder: Path) -> None:
    """A real limit on the size of files stands in for the disk: the operating system refuses the write."""
    preset = write_preset(folder, "big", learners_per_task=400, episodes=40)

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    result = subprocess.run(
        [sys.executable, "-m", "algodistill.cli", "collect", str(preset)],
        cwd=folder,
        env=program_environment(),
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("algodistill: ")
    assert "Traceback" not in result.stderr
    assert not list((folder / "data" / "big" / "DarkRoom-v0").glob("*.parquet"))
    assert cli.main(["collect", str(preset)]) == 0


@pytest.mark.parametrize(
    "error, code, words",
    [
        (KeyboardInterrupt(), 1, "Interrupted"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_failures_end_in_one_line(
    error: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert exit_code(command) == code
    line = only_line(capsys)
    assert words in line and "same command" in line


def test_mistakes_of_ours_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: print(1 / 0))


def test_ctrl_c_while_collecting_keeps_whole_shards(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from algodistill.histories import collecting, collection

    monkeypatch.setattr(collection, "SHARD_TRANSITIONS", 400)
    whole, calls = collecting.run_learners, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(collecting, "run_learners", interrupted)
    assert cli.main(["collect", "tiny.yaml"]) == 1
    assert "same command" in only_line(capsys)
    kept = {path: path.read_bytes() for path in (folder / "data" / "tiny").glob("*/*.parquet")}
    assert len(kept) == 1
    assert cli.main(["collect", "tiny.yaml"]) == 0
    for path, content in kept.items():
        assert path.read_bytes() == content
    assert len(calls) > 3


def test_a_finished_collection_does_not_need_its_source(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from algodistill.training import collecting

    assert cli.main(["collect", "tiny.yaml"]) == 0

    def not_installed(collection: object) -> None:
        raise ValueError("It is not installed.")

    monkeypatch.setattr(collecting, "check_collection", not_installed)
    assert cli.main(["collect", "tiny.yaml"]) == 0


def test_preset_of_the_package_is_found_by_name_anywhere(folder: Path) -> None:
    result = train(folder, "--config", "dark_room", "--max_steps", "few")
    assert result.returncode == 2 and "few" in result.stderr


def test_shipped_presets_have_no_unknown_setting() -> None:
    from algodistill.training.job import parse_job

    presets = sorted((ROOT / "configs").glob("*.yaml"))
    assert presets
    for preset in presets:
        experiment = parse_job(["--config", str(preset)])
        assert experiment.preset == preset
        assert yaml.safe_load(preset.read_text())["environment"] == experiment.histories.environment
