"""The console script `algodistill`: collecting histories and evaluating checkpoints."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .outcomes import exit_code, wrong_input


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
        "--tasks",
        metavar="JSON",
        help="other tasks, a JSON list: '[{\"goal\": [0, 8]}]' (default: the test tasks)",
    )
    evaluate.add_argument(
        "--dataset", help="learning histories, a folder or a Hub id: gives the source algorithm's own curve"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `algodistill`; returns the exit code."""
    arguments, others = make_parser().parse_known_args(argv)
    if others and arguments.command != "collect":
        make_parser().error(f"unrecognized arguments: {' '.join(others)}")
    if arguments.command == "collect":
        return exit_code(lambda: collect_command(arguments, others))
    return exit_code(lambda: evaluate_command(arguments))


def collect_command(arguments: argparse.Namespace, options: Sequence[str]) -> None:
    """`algodistill collect PRESET`."""
    # Imported here, so that --help answers at once.
    from .training import collect

    with wrong_input():
        folder = collect(arguments.preset, arguments.output_dir, options=options)
    print(f"The histories are in {folder}: datasets.load_dataset({str(folder)!r})")


def evaluate_command(arguments: argparse.Namespace) -> None:
    """`algodistill evaluate MODEL`."""
    from .evaluation import CURVE_FILE, RESULT_FILE, evaluate, load_checkpoint, summary, write_result
    from .training import load_histories

    with wrong_input():
        tasks = None if arguments.tasks is None else read_tasks(arguments.tasks)
        model, tokeniser = load_checkpoint(arguments.model, arguments.revision, device_map="auto")
        histories = None if arguments.dataset is None else load_histories(arguments.dataset, "test")
        result = evaluate(
            model,
            tokeniser,
            tasks=tasks,
            split="test" if tasks is None else "given",
            episodes=arguments.episodes,
            streams=arguments.streams,
            action_selection=arguments.action_selection,
            temperature=arguments.temperature,
            context_length=arguments.context_length,
            seed=arguments.seed,
            histories=histories,
            progress=True,
        )
    folder = Path(arguments.output_dir or Path("evaluations") / Path(arguments.model).name)
    write_result(result, folder)
    print(summary(result))
    print(f"See {folder / RESULT_FILE} and {folder / CURVE_FILE}.")


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
