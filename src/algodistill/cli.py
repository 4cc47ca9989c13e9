"""The console script `algodistill`: collecting histories, evaluating checkpoints, publishing both."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import transformers
import yaml

from .outcomes import exit_code, stopped, wrong_input


def make_parser() -> argparse.ArgumentParser:
    """The command line of `algodistill`."""
    parser = argparse.ArgumentParser(
        prog="algodistill",
        description="Algorithm Distillation: learning to reinforcement-learn in a transformer's context window.",
        epilog="Training is a program of its own: accelerate launch -m algodistill.train --config dark_room",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    collect = commands.add_parser(
        "collect",
        help="record how source algorithms learn",
        description="Run the source algorithm of a preset on its tasks and write the learning histories, with a "
        "dataset card, into a folder that datasets.load_dataset reads. Interrupted, it continues where it stopped; "
        "run again, it finds everything there.",
        epilog="Any other option overrules the preset: --learners_per_task 8 --episodes 50 "
        "--source_kwargs '{\"initial_value\": 0}'.",
    )
    collect.add_argument("preset", metavar="PRESET", help="name of a preset (dark_room) or a YAML file of your own")
    collect.add_argument("--output_dir", metavar="DIR", help="where the histories go (default: data/PRESET)")

    evaluate = commands.add_parser(
        "evaluate",
        help="let a checkpoint learn held-out tasks in its context",
        description="Run a checkpoint, weights frozen, on tasks held out from its training, and write "
        "in_context_evaluation.json and learning_curve.png.",
    )
    evaluate.add_argument("model", metavar="MODEL", help="a checkpoint's folder (runs/dark_room) or its id on the Hub")
    evaluate.add_argument("--revision", help="branch, tag or commit on the Hub")
    evaluate.add_argument("--output_dir", metavar="DIR", help="where the results go (default: evaluations/MODEL)")
    evaluate.add_argument("--episodes", type=int, default=100, help="in-context episodes (default: %(default)s)")
    evaluate.add_argument(
        "--streams", type=int, help="streams, a multiple of the tasks (default: the smallest that is at least 64)"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="seed of environments and actions (default: 0)")
    evaluate.add_argument(
        "--action_selection",
        choices=["sample", "greedy"],
        default="sample",
        help="draw actions by their probability, or take the likeliest (default: sample)",
    )
    evaluate.add_argument(
        "--temperature", type=float, help="what the logits are divided by before sampling (default: the checkpoint's)"
    )
    evaluate.add_argument("--context_length", type=int, help="steps in a context (default: the checkpoint's)")
    evaluate.add_argument(
        "--target_return", type=float, help="return to ask a return-conditioned model for (default: the checkpoint's)"
    )
    evaluate.add_argument(
        "--tasks",
        metavar="JSON",
        help="other tasks, a JSON list: '[{\"goal\": [0, 8]}]' (default: the test tasks)",
    )
    evaluate.add_argument(
        "--dataset", help="learning histories, a folder or a Hub id: gives the source algorithm's own curve"
    )
    evaluate.add_argument(
        "--prompt-from",
        "--prompt_from",
        metavar="DATASET",
        help="learning histories, a folder or a Hub id: every context starts with episodes of the task's history",
    )
    evaluate.add_argument(
        "--prompt-quantile",
        "--prompt_quantile",
        type=float,
        metavar="Q",
        help="how well these episodes do, from 0 (random) to 1 (optimal) (default: 0.5)",
    )
    evaluate.add_argument(
        "--prompt-steps",
        "--prompt_steps",
        type=int,
        metavar="STEPS",
        help="about how many steps they have (default: half a context)",
    )

    experiment = commands.add_parser(
        "experiment",
        help="run several variants side by side and draw what they show",
        description="Run an experiment: the trainings and evaluations that its YAML file names, one after the other, "
        "in runs/experiments. Its figure is drawn anew after each. Interrupted, it continues where it stopped; runs "
        "that are finished, for this or for another experiment, are used again.",
        epilog="Any other option overrules the presets of all runs: --seed 1, or --max_steps 100 for a quick look.",
    )
    experiment.add_argument(
        "experiment",
        metavar="NAME",
        nargs="?",
        help="name of an experiment, or a YAML file of your own; without it, those that come along are listed",
    )
    experiment.add_argument(
        "--output_dir",
        "--output-dir",
        metavar="DIR",
        default="experiments",
        help="where NAME.json and NAME.png go (default: %(default)s); options are added to NAME",
    )

    publish = commands.add_parser(
        "publish",
        help="put histories or a checkpoint on the Hub",
        description="Publish a folder of learning histories as a dataset, or a run's folder as a model, with a card. "
        "Only what has changed is uploaded; interrupted, the same command continues. Optimiser states, checkpoint-* "
        "folders and pickles stay at home. What was written into the card by hand on the Hub stays, also a licence "
        "other than apache-2.0, with which it starts.",
        epilog="The token is that of `hf auth login` or of HF_TOKEN; HF_ENDPOINT names another Hub.",
    )
    publish.add_argument("folder", metavar="FOLDER", help="data/dark_room or runs/dark_room")
    publish.add_argument("repository", metavar="REPO", help="USER/NAME; created if there is none")
    publish.add_argument("--private", action="store_true", help="create the repository as a private one")
    publish.add_argument("--revision", metavar="BRANCH", help="branch to publish to; created if there is none")
    publish.add_argument(
        "--create-pr", "--create_pr", action="store_true", help="open a pull request instead of committing"
    )
    publish.add_argument(
        "--dataset", metavar="ID", help="for a checkpoint: id on the Hub of the histories that it was trained on"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `algodistill`; returns the exit code."""
    arguments, others = make_parser().parse_known_args(argv)
    if not sys.stderr.isatty():
        # Bars are for people who watch.
        huggingface_hub.utils.disable_progress_bars()
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    if others and arguments.command not in ("collect", "experiment"):
        make_parser().error(f"unrecognized arguments: {' '.join(others)}")
    if arguments.command in ("collect", "experiment"):
        # As with `python -m`. Not for `evaluate`: the current folder may be a repository that was downloaded.
        sys.path.insert(0, str(Path.cwd()))
    if arguments.command == "collect":
        return exit_code(lambda: collect_command(arguments, others))
    if arguments.command == "experiment":
        return exit_code(lambda: experiment_command(arguments, others))
    if arguments.command == "publish":
        return exit_code(lambda: publish_command(arguments))
    return exit_code(lambda: evaluate_command(arguments))


def collect_command(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    """`algodistill collect PRESET`."""
    # Imported here, so that --help answers at once.
    from .training import collect

    with wrong_input():
        folder = collect(arguments.preset, arguments.output_dir, options=options)
    print(f"The histories are in {folder}: datasets.load_dataset({str(folder)!r})")


def experiment_command(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    """`algodistill experiment NAME`."""
    from .experiments import experiment_titles, find_experiment, read_experiment, run_experiment

    if arguments.experiment is None:
        print("\n".join(f"{name:26} {title}" for name, title in experiment_titles().items()))
        return
    with wrong_input():
        experiment = read_experiment(find_experiment(arguments.experiment), read_options(options))
        figure = run_experiment(experiment, Path(arguments.output_dir))
    print(f"See {figure}, and {figure.with_suffix('.json')} for its figures.")


def evaluate_command(arguments: argparse.Namespace) -> None:
    """`algodistill evaluate MODEL`."""
    from .evaluation import evaluate, held_out_tasks, load_checkpoint, result_files, summary, write_result
    from .histories.windows import check_histories
    from .training import load_histories

    with wrong_input():
        tasks = None if arguments.tasks is None else read_tasks(arguments.tasks)
        for option in ("prompt_quantile", "prompt_steps"):
            if getattr(arguments, option) is not None and arguments.prompt_from is None:
                raise ValueError(f"--{option.replace('_', '-')} says what prompts are like: also give --prompt-from.")
        model, tokeniser = load_checkpoint(arguments.model, arguments.revision, device_map="auto")
        histories, prompt_from = (
            None if name is None else load_histories(name, "test", model.config.environment)
            for name in (arguments.dataset, arguments.prompt_from)
        )
        if histories is not None:
            check_histories(histories.unique("environment"), [], model.config.environment)
        if arguments.prompt_from is not None and prompt_from is None:
            raise ValueError(f"{arguments.prompt_from} has no histories of test tasks to take prompts from.")
        folder = Path(arguments.output_dir or Path("evaluations") / Path(arguments.model).name)
        for split in ["given"] if tasks is not None else held_out_tasks(model.config) or ["test"]:
            result = evaluate(
                model,
                tokeniser,
                tasks=tasks,
                split=split,
                episodes=arguments.episodes,
                streams=arguments.streams,
                action_selection=arguments.action_selection,
                temperature=arguments.temperature,
                context_length=arguments.context_length,
                target_return=arguments.target_return,
                seed=arguments.seed,
                histories=histories,
                prompt_from=prompt_from,
                prompt_quantile=0.5 if arguments.prompt_quantile is None else arguments.prompt_quantile,
                prompt_steps=arguments.prompt_steps,
                progress=True,
            )
            write_result(result, folder)
            print(f"{split}\n{summary(result)}")
            print("See {} and {}.".format(*result_files(folder, split)))


def publish_command(arguments: argparse.Namespace) -> None:
    """`algodistill publish FOLDER REPO`."""
    from .hub import publish

    # Uploads run in threads that would be waited for. Nothing here changes, and what has arrived has arrived.
    before = signal.signal(
        signal.SIGINT, lambda *_: os._exit(stopped("Interrupted. Run the same command again to continue."))
    )
    try:
        with wrong_input():
            publication = publish(
                arguments.folder,
                arguments.repository,
                private=arguments.private,
                revision=arguments.revision,
                create_pr=arguments.create_pr,
                dataset=arguments.dataset,
            )
    finally:
        signal.signal(signal.SIGINT, before)
    print(f"{'Published' if publication.changed else 'Nothing has changed'}: {publication.url}")
    if publication.left_out:
        print(f"Left at home: {', '.join(publication.left_out)}")


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """Options such as `--seed 1`, `--seed=1` or `--use_cpu`, by name.

    Raises:
        ValueError: If one has no name, its value cannot be read, or it is not for experiments.
    """
    pairs, rest = {}, list(options)
    while rest:
        name, separator, value = rest.pop(0).partition("=")
        if not name.startswith("--"):
            raise ValueError(f"{name!r} is no option: expected such as --seed 1.")
        if not separator:
            # Without a value it is a flag, such as --use_cpu.
            value = "true" if not rest or rest[0].startswith("--") else rest.pop(0)
        text = value
        key = name.removeprefix("--").replace("-", "_")
        if key == "config":
            raise ValueError(f"{name} cannot be given: an experiment's file names the presets of its runs.")
        try:
            pairs[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"{name} {text!r} cannot be read: {' '.join(str(error).split())}") from error
    return pairs


def read_tasks(text: str) -> list[dict[str, Any]]:
    """The tasks that `--tasks` gives.

    Raises:
        ValueError: If it is not a JSON list of mappings.
    """
    try:
        tasks = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--tasks {text!r} is not JSON: {error}.") from error
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise ValueError(f"--tasks {text!r} is not a list of tasks, such as '[{{\"goal\": [0, 8]}}]'.")
    return tasks


if __name__ == "__main__":
    sys.exit(main())
