"""Draw docs/results.png from the evaluations of the presets, beside the paper's own curves.

python docs/plot_results.py runs

What the runs in that folder reached is kept in docs/results/, from which the picture is drawn.
"""

import json
import sys
from pathlib import Path
from typing import Any

from algodistill.experiments import plot_experiment, rounded


DOCS = Path(__file__).parent
KEPT = DOCS / "results"
ROOMS = {
    "dark_room": ("Dark Room, from Q-learning", "figure_4_dark_room"),
    "dark_room_a2c": ("Dark Room, from A2C", "figure_4_dark_room"),
    "dark_room_posterior": ("Dark Room, from posterior sampling", "figure_4_dark_room"),
    "dark_room_hard": ("Dark Room (Hard), from Q-learning", "figure_4_dark_room_hard"),
    "dark_key_to_door": ("Dark Key-to-Door, from Q-learning", "figure_4_dark_key_to_door"),
    "frozen_lake": ("FrozenLake, from Q-learning", None),
    "cart_pole": ("CartPole, from A2C", None),
    "pendulum_sac": ("Pendulum, from SAC", None),
}
BANDITS = {"adversarial_bandit": "AD", "adversarial_bandit_thompson": "AD from Thompson sampling"}
TESTS = ("odd", "even", "uniform")


def keep(runs: Path) -> None:
    """Copy the curves of the presets that have been run, without those of single tasks."""
    KEPT.mkdir(exist_ok=True)
    for name in (*ROOMS, *BANDITS):
        for file in sorted((runs / name).glob("in_context_evaluation*.json")):
            result = json.loads(file.read_text())
            del result["task_ids"], result["episode_return"]["per_task"]
            (KEPT / file.name.replace("in_context_evaluation", name)).write_text(json.dumps(rounded(result)) + "\n")


def curve(label: str, *names: str) -> dict[str, Any]:
    """A curve of the results that are kept under these names; bars are scaled by UCB1."""
    results = [json.loads((KEPT / f"{name}.json").read_text()) for name in names]
    return {"label": label, "source": "ucb1", "results": results}


def main(runs: Path) -> None:
    """Keep what the runs reached, and draw it."""
    keep(runs)
    panels: list[dict[str, Any]] = [
        {"title": title, "kind": "episodes", "paper": figure, "curves": [curve("AD", name)]}
        for name, (title, figure) in ROOMS.items()
    ]
    bandits = [curve(label, *(f"{name}_{test}" for test in TESTS)) for name, label in BANDITS.items()]
    panels.append({"title": "Adversarial bandit", "kind": "bars", "paper": "figure_3", "curves": bandits})
    plot_experiment({"title": "Held-out tasks, weights frozen", "panels": panels}, DOCS / "results.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
