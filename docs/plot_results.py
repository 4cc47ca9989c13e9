"""Draw docs/results.png from the evaluations of the presets, beside the paper's own curves.

python docs/plot_results.py runs

What the runs in that folder reached is kept in docs/results/, from which the picture is drawn.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure


DOCS = Path(__file__).parent
KEPT = DOCS / "results"
OURS, SOURCE, PAPER, REFERENCE = "#1f5fa8", "#c8701a", "#a03c78", "#6b6b6b"
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
BANDITS = {"adversarial_bandit": "from UCB1", "adversarial_bandit_thompson": "from Thompson sampling"}
TESTS = ("odd", "even", "uniform")


def draw_room(axes: Axes, title: str, result: dict[str, Any], paper: list[list[float]] | None) -> None:
    """Returns by episode, on a logarithmic axis beside the paper's, which go on to a thousand."""
    mean, error = (np.array(result["episode_return"][name]) for name in ("mean", "standard_error"))
    episodes = np.arange(1, len(mean) + 1)
    axes.fill_between(episodes, mean - error, mean + error, color=OURS, alpha=0.25, linewidth=0)
    axes.plot(episodes, mean, color=OURS, linewidth=2, label="algodistill")
    source = result["references"]["source"]["mean"]
    axes.plot(np.arange(1, len(source) + 1), source, color=SOURCE, linewidth=1.2, label="its source")
    axes.set(title=title, xlabel="episode", ylabel="return")
    if paper is not None:
        points = np.array([point for point in paper if point[0] >= 1])
        axes.plot(points[:, 0], points[:, 1], color=PAPER, linewidth=1.5, label="AD of Laskin et al. 2022")
        axes.set(xscale="log", ylim=(0, None))
    for name, style in (("optimal", "--"), ("random", ":")):
        if result["references"][name] is not None:
            axes.axhline(result["references"][name], color=REFERENCE, linestyle=style, linewidth=1, label=name)


def draw_bandits(axes: Axes, results: dict[str, dict[str, Any]], paper: dict[str, float]) -> None:
    """Reward of 100 pulls, scaled so that random is 0 and UCB1 is 1."""
    bars = {"AD of Laskin et al. 2022": [paper[test] for test in TESTS]}
    for name, tests in results.items():
        scaled = []
        for test in TESTS:
            references = tests[test]["references"]
            reward = tests[test]["episode_return"]["mean"][0]
            scaled.append((reward - references["random"]) / (references["ucb1"] - references["random"]))
        bars[BANDITS[name]] = scaled
    for place, ((label, values), color) in enumerate(zip(bars.items(), (PAPER, OURS, "#5a8f3c"), strict=False)):
        axes.bar(np.arange(3) + 0.27 * (place - 1), values, 0.25, label=label, color=color)
    axes.axhline(1, color=REFERENCE, linestyle="--", linewidth=1)
    axes.set_xticks(np.arange(3), TESTS)
    axes.set(title="Adversarial bandit", ylabel="reward, random 0, UCB1 1")
    axes.set_ylim(0, 1.35 * max(max(values) for values in bars.values()))
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=3)


def keep(runs: Path) -> None:
    """Copy the curves of the presets that have been run, without those of single tasks."""
    KEPT.mkdir(exist_ok=True)
    for name in (*ROOMS, *BANDITS):
        for file in sorted((runs / name).glob("in_context_evaluation*.json")):
            result = json.loads(file.read_text())
            del result["task_ids"], result["episode_return"]["per_task"]
            result = json.loads(json.dumps(result), parse_float=lambda number: float(f"{float(number):.5g}"))
            (KEPT / file.name.replace("in_context_evaluation", name)).write_text(json.dumps(result) + "\n")


def main(runs: Path) -> None:
    """Keep what the runs reached, and draw it."""
    keep(runs)
    paper = json.loads((DOCS / "paper_curves.json").read_text())
    rooms = {name: KEPT / f"{name}.json" for name in ROOMS}
    rooms = {name: file for name, file in rooms.items() if file.exists()}
    rows = -(-(len(rooms) + 1) // 3)
    figure = Figure(figsize=(14, 3.6 * rows), dpi=120, layout="constrained")
    panels = figure.subplots(rows, 3).ravel()
    for axes, (preset, file) in zip(panels, rooms.items(), strict=False):
        title, curve = ROOMS[preset]
        draw_room(axes, title, json.loads(file.read_text()), paper[curve]["AD"] if curve else None)
    panels[0].legend(frameon=False, fontsize=8)
    bandits = {name: {test: KEPT / f"{name}_{test}.json" for test in TESTS} for name in BANDITS}
    if all(file.exists() for tests in bandits.values() for file in tests.values()):
        results = {
            name: {test: json.loads(tests[test].read_text()) for test in TESTS} for name, tests in bandits.items()
        }
        draw_bandits(panels[len(rooms)], results, paper["figure_3_bandit"]["AD"])
    for axes in panels:
        if not axes.has_data():
            axes.remove()
    figure.savefig(DOCS / "results.png", metadata={"Software": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
