"""The Trainer and the main job: what is learnt, resumed, shared among processes, and left in the run's folder."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, program_environment, run, train, write_preset
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, TrainerCallback

from algodistill import AlgorithmDistillationTrainer, AlgorithmDistillationTrainingArguments, HistoryWindows
from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel
from algodistill.training import collect, load_histories
from algodistill.training.building import make_model
from algodistill.training.interruption import SaveOnInterrupt
from algodistill.training.job import parse_job


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny preset and its histories."""
    folder = tmp_path_factory.mktemp("project")
    collect(write_preset(folder), folder / "data" / "tiny", progress=False)
    return folder


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """The folder of a run of the main job."""
    result = train(folder)
    assert result.returncode == 0, result.stderr
    return folder / "runs" / "tiny"


def losses(run_folder: Path) -> list[float]:
    state = json.loads((run_folder / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def make_trainer(
    folder: Path, output: Path, *, config_changes: dict | None = None, **arguments: object
) -> AlgorithmDistillationTrainer:
    """A trainer as the main job makes it, on the tiny preset."""
    experiment = parse_job(["--config", str(folder / "tiny.yaml")])
    torch.manual_seed(0)
    model, tokeniser = make_model(experiment)
    if config_changes:
        config = AlgorithmDistillationConfig(**{**model.config.to_dict(), **config_changes})
        model = AlgorithmDistillationModel(config)
    histories = load_histories(folder / "data" / "tiny", "train")
    assert histories is not None
    settings = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 0.01, "logging_steps": 1}
    args = AlgorithmDistillationTrainingArguments(
        str(output), **{**settings, "report_to": "none", "use_cpu": True, "disable_tqdm": True, **arguments}
    )
    return AlgorithmDistillationTrainer(
        model,
        args,
        processing_class=tokeniser,
        train_dataset=HistoryWindows(histories, 12, episode_stride=2, start_share=0.5),
        eval_dataset=HistoryWindows(histories.select(range(4)), 12),
        eval_tasks=experiment.split.validation,
    )


def test_loss_goes_down(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(folder, tmp_path, max_steps=60, save_strategy="no")
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged[0] == pytest.approx(np.log(5), abs=0.15), "an untrained model knows nothing of five actions"
    assert np.mean(logged[-5:]) < logged[0] - 0.15


@pytest.mark.parametrize("steps", [6, 14, 15, 20, 30, 32])
def test_resumed_training_equals_undisturbed_training(folder: Path, tmp_path: Path, steps: int) -> None:
    # Everything random at once: windows, hidden tokens, dropout. An epoch has 15 steps.
    changes = {"token_masking": 0.3, "embedding_dropout": 0.2}
    settings = {"max_steps": steps + 16, "save_steps": steps}
    undisturbed = make_trainer(folder, tmp_path / "undisturbed", config_changes=changes, **settings)
    undisturbed.train()
    resumed = make_trainer(folder, tmp_path / "undisturbed", config_changes=changes, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "undisturbed" / f"checkpoint-{steps}"))
    for (name, expected), (_, found) in zip(
        undisturbed.model.state_dict().items(), resumed.model.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, msg=name)


def test_same_seed_gives_the_same_training(folder: Path, tmp_path: Path) -> None:
    runs = []
    for index, seed in enumerate((0, 0, 1)):
        trainer = make_trainer(folder, tmp_path / str(index), save_strategy="no", seed=seed)
        trainer.train()
        runs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_in_context_return_chooses_the_best_checkpoint(folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(
        folder,
        tmp_path,
        eval_strategy="steps",
        eval_steps=4,
        save_steps=4,
        eval_streams=4,
        eval_episodes=3,
        load_best_model_at_end=True,
        metric_for_best_model="in_context_return",
        greater_is_better=True,
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_in_context_return" in entry]
    assert [entry["step"] for entry in evaluations] == [4, 8]
    assert all("eval_loss" in entry and "eval_in_context_first_return" in entry for entry in evaluations)
    assert trainer.state.best_metric == max(entry["eval_in_context_return"] for entry in evaluations)
    assert trainer.model.training is False or trainer.state.global_step == 8


def test_evaluation_leaves_training_undisturbed(folder: Path, tmp_path: Path) -> None:
    plain = make_trainer(folder, tmp_path / "plain", save_strategy="no")
    plain.train()
    evaluated = make_trainer(
        folder, tmp_path / "evaluated", save_strategy="no", eval_strategy="steps", eval_steps=2, eval_episodes=2
    )
    evaluated.train()
    logged = [
        [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (plain, evaluated)
    ]
    assert logged[0] == logged[1]


def test_trackers_get_the_in_context_return(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "log"))
    make_trainer(
        folder,
        tmp_path,
        save_strategy="no",
        eval_strategy="steps",
        eval_steps=8,
        eval_episodes=2,
        report_to="tensorboard",
    ).train()
    (events,) = (tmp_path / "log").rglob("events.out.tfevents.*")
    assert b"eval/in_context_return" in events.read_bytes()


def test_run_folder_holds_what_it_should(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "in_context_evaluation.json",
        "learning_curve.png",
        "modeling_algodistill.py",
        "configuration_algodistill.py",
        "spaces_algodistill.py",
        "tokenisation_algodistill.py",
        "agent_algodistill.py",
        "checkpoint-4",
        "checkpoint-8",
    }
    result = json.loads((finished / "in_context_evaluation.json").read_text())
    assert (result["tasks"], result["streams"], result["episodes"], result["split"]) == (2, 4, 3, "test")
    assert len(result["references"]["source"]["mean"]) == 10


def test_every_checkpoint_loads_on_its_own(finished: Path) -> None:
    for checkpoint in (finished, finished / "checkpoint-4"):
        model, tokeniser = AutoModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
        agent = model.agent(tokeniser, 3)
        assert agent.act(np.ones((3, 2), dtype=np.int64)).shape == (3,)


def test_test_tasks_never_enter_training(finished: Path, folder: Path) -> None:
    config = json.loads((finished / "config.json").read_text())
    test_tasks = {json.dumps(task, sort_keys=True) for task in config["test_tasks"]}
    for split, expected in (("train", set()), ("validation", set()), ("test", test_tasks)):
        histories = load_histories(folder / "data" / "tiny", split)
        assert histories is not None
        assert set(histories["task"]) & test_tasks == expected


def test_two_processes_give_the_losses_of_one(folder: Path, finished: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29513"]
    options = ["--use_cpu", "--ddp_backend", "gloo", "--per_device_train_batch_size", "2", "--output_dir", "runs/two"]
    evaluation = ["--eval_strategy", "steps", "--eval_steps", "8"]
    result = run([*command, str(ROOT / "train.py"), "--config", "tiny.yaml", *options, *evaluation], folder)
    assert result.returncode == 0, result.stderr
    assert losses(folder / "runs" / "two") == pytest.approx(losses(finished), abs=2e-4)
    one, two = (load_file(path / "model.safetensors") for path in (finished, folder / "runs" / "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_finished_run_says_so(finished: Path, folder: Path) -> None:
    weights = (finished / "model.safetensors").read_bytes()
    result = train(folder)
    assert result.returncode == 0
    assert "holds a finished run" in result.stdout and "--output_dir" in result.stdout
    assert (finished / "model.safetensors").read_bytes() == weights


def test_ctrl_c_ends_in_one_line_with_a_checkpoint(folder: Path, finished: Path) -> None:
    options = ["--max_steps", "100000", "--save_steps", "100000", "--output_dir", "runs/interrupted"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--config", "tiny.yaml", *options],
        cwd=folder,
        env=program_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "'loss'" in line:
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    last_line = errors.strip().splitlines()[-1]
    assert "algodistill: Stopped after step" in last_line and "continue" in last_line
    assert "Traceback" not in errors
    (checkpoint,) = (folder / "runs" / "interrupted").glob("checkpoint-*")
    assert 0 < int(checkpoint.name.split("-")[1]) < 100000


def test_run_interrupted_by_ctrl_c_continues_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    class PressCtrlC(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs) -> None:
            if state.global_step == 5:
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    undisturbed = make_trainer(folder, tmp_path / "undisturbed", save_strategy="no")
    undisturbed.train()
    interruption = SaveOnInterrupt()
    interrupted = make_trainer(folder, tmp_path / "interrupted")
    interrupted.add_callback(interruption)
    interrupted.add_callback(PressCtrlC())
    interrupted.train()
    assert interruption.interrupted and interrupted.state.global_step == 6
    assert signal.getsignal(signal.SIGINT) == before

    continued = make_trainer(folder, tmp_path / "interrupted")
    continued.train(resume_from_checkpoint=True)
    for name, value in undisturbed.model.state_dict().items():
        torch.testing.assert_close(continued.model.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_unfinished_run_of_other_settings_is_refused(folder: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "settings.json").write_text((finished / "settings.json").read_text())
    result = train(folder, "--output_dir", str(other), "--learning_rate", "0.5")
    assert result.returncode == 2
    assert "learning_rate was 0.01, is 0.5" in result.stderr


def test_training_starts_from_a_checkpoint(folder: Path, finished: Path) -> None:
    result = train(
        folder, "--output_dir", "runs/tuned", "--model_name_or_path", str(finished), "--learning_rate", "0.0"
    )
    assert result.returncode == 0, result.stderr
    before, after = (load_file(path / "model.safetensors") for path in (finished, folder / "runs" / "tuned"))
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=0, msg=name)


def test_short_context_is_allowed_with_a_warning(folder: Path) -> None:
    result = train(folder, "--output_dir", "runs/short", "--context_length", "9", "--max_steps", "1")
    assert result.returncode == 0, result.stderr
    assert "Warning: a context of 9 steps" in result.stdout and "across episodes" in result.stdout
