"""Prompts: which episodes of a source's histories contexts start with, and that they are as good as lived through."""

import gymnasium
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from gymnasium.spaces import Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from test_agent import Life, live, record_logits
from tiny import ACTION_SPACE, OBSERVATION_SPACE, NaiveContext, tiny_model, tiny_tokeniser
from tqdm.auto import tqdm

from algodistill.environments import DarkRoomEnv
from algodistill.evaluation import draw_prompts, evaluate, make_prompts, rollout, summary, write_result
from algodistill.evaluation.prompts import find_stretch
from algodistill.evaluation.references import reference_returns
from algodistill.histories import Collection
from algodistill.histories.collection import Batch
from algodistill.histories.learners import run_learners
from algodistill.histories.schema import history_table, task_json


TASKS = [{"goal": [0, 1]}, {"goal": [2, 2]}]
DARK_ROOM = "algodistill/DarkRoom-v0"
ROOM = {"size": 3, "episode_length": 4}


# ---- which episodes


RISING = [0.0, 1.0, 2.0, 3.0, 4.0, 4.0]
STRETCHES = {
    # name: (lengths, returns, quantile, steps, random, optimal, the episodes chosen)
    "first to get there": ([5] * 6, RISING, 0.5, 5, 0, 4, (2, 3)),
    "first two to get there": ([5] * 6, RISING, 0.5, 10, 0, 4, (2, 4)),
    "optimal": ([5] * 6, RISING, 1, 5, 0, 4, (4, 5)),
    "two that are optimal": ([5] * 6, RISING, 1, 10, 0, 4, (4, 6)),
    "random": ([5] * 6, RISING, 0, 5, 2, 4, (2, 3)),
    "better than random from the start": ([5] * 6, RISING, 0, 5, -9, 4, (0, 1)),
    "beyond optimal": ([5] * 6, RISING, 1, 5, 0, 1.5, (2, 3)),
    "never reached": ([5] * 4, [0.0, 1.0, 5.0, 3.0], 1, 5, 0, 100, (2, 3)),
    "never reached, twice the best": ([5] * 4, [0.0, 5.0, 1.0, 5.0], 1, 5, 0, 100, (3, 4)),
    "nearer before than when it is reached": ([5] * 4, [0.0, 1.9, 4.0, 2.0], 0.5, 5, 0, 4, (1, 2)),
    "nearer when it is reached": ([5] * 4, [0.0, 1.0, 2.5, 2.0], 0.5, 5, 0, 4, (2, 3)),
    "as near before as when it is reached": ([5] * 4, [0.0, 1.0, 3.0, 2.0], 0.5, 5, 0, 4, (2, 3)),
    "never as good as random": ([5] * 3, [-3.0, -1.0, -2.0], 0, 5, 0, 100, (1, 2)),
    "negative returns": ([5] * 5, [-1600.0, -1200.0, -400.0, -200.0, -210.0], 0.5, 5, -1500, -150, (1, 2)),
    "negative returns, best": ([5] * 5, [-1600.0, -1200.0, -400.0, -200.0, -210.0], 1, 5, -1500, -150, (3, 4)),
    "thirds of sevenths": ([5] * 5, [0.0, 0.7, 0.7, 0.7, 0.7], 1, 15, 0, 0.7, (1, 4)),
    "large returns": ([5] * 5, [0.0, 1e7 / 3, 1e7 / 3, 1e7 / 3, 1e7], 1, 15, 0, 1e7 / 3, (1, 4)),
    "unknown levels, low": ([5] * 5, [3.0, 1.0, 2.0, 5.0, 4.0], 0, 5, None, None, (0, 1)),
    "unknown levels, half": ([5] * 5, [3.0, 1.0, 4.0, 5.0, 4.0], 0.5, 5, None, None, (2, 3)),
    "unknown levels, high": ([5] * 5, [3.0, 1.0, 2.0, 5.0, 4.0], 1, 5, None, None, (3, 4)),
    "unknown levels of two episodes": ([5] * 5, [0.0, 2.0, 4.0, 9.0, 9.0], 0.5, 10, None, None, (2, 4)),
    "unknown levels, unlearning": ([5] * 3, [5.0, 4.0, 3.0], 0.5, 5, None, None, (0, 1)),
    "unknown optimum": ([5] * 4, [1.0, 2.0, 3.0, 6.0], 0.5, 5, 0, None, (2, 3)),
    "unknown random return": ([5] * 4, [2.0, 3.0, 6.0, 7.0], 0.5, 5, None, 10, (2, 3)),
    "one episode": ([7], [2.0], 0.5, 3, 0, 4, (0, 1)),
    "fewer steps than an episode": ([5] * 6, RISING, 0, 1, 0, 4, (0, 1)),
    "rather two episodes": ([5] * 6, RISING, 0, 12, 0, 4, (0, 2)),
    "rather three": ([5] * 6, RISING, 0, 13, 0, 4, (0, 3)),
    "more steps than the history": ([5] * 6, RISING, 1, 1000, 0, 4, (0, 6)),
    "episodes of different lengths": ([1, 2, 9, 12], [0.0, 1.0, 2.0, 3.0], 1, 12, 0, 2.5, (2, 4)),
}


@pytest.mark.parametrize(
    ("lengths", "returns", "quantile", "steps", "random", "optimal", "expected"), STRETCHES.values(), ids=STRETCHES
)
def test_the_episodes_that_come_nearest_are_chosen(lengths, returns, quantile, steps, random, optimal, expected):
    # As a dataset gives them.
    given_lengths, given_returns = np.array(lengths, dtype=np.int32), np.array(returns, dtype=np.float32)
    chosen = find_stretch(given_lengths, given_returns, quantile, steps, random, optimal)
    assert (chosen.start, chosen.stop, chosen.step) == (*expected, None)


@given(
    episodes=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([-7.5, -1.0, 0.0, 0.25, 1.0, 8.0])), min_size=1),
    quantile=st.sampled_from([0, 0.2, 0.5, 1]),
    steps=st.integers(1, 40),
    levels=st.sampled_from([(None, None), (-1.0, 1.0), (0.0, None), (None, 20.0)]),
)
@settings(max_examples=200, deadline=None)
def test_none_come_nearer_of_the_episodes_up_to_the_first_that_do_so_well(episodes, quantile, steps, levels):
    lengths, returns = (np.array(values) for values in zip(*episodes, strict=True))
    chosen = find_stretch(lengths, returns, quantile, steps, *levels)
    count = chosen.stop - chosen.start
    assert 1 <= count <= len(episodes) and 0 <= chosen.start <= len(episodes) - count
    # Neither an episode less nor one more would come nearer to the steps asked for, up to what a history has.
    distance = [abs(more * lengths.mean() - steps) for more in range(1, len(episodes) + 1)]
    assert distance[count - 1] <= min(distance) + 1e-9
    means = [returns[first : first + count].mean() for first in range(len(episodes) - count + 1)]
    low, high = (means[0] if levels[0] is None else levels[0]), (max(means) if levels[1] is None else levels[1])
    wanted = low + quantile * (high - low)
    reached = [first for first, mean in enumerate(means) if mean >= wanted - 1e-4]
    until = means[: reached[0] + 1] if reached else means
    assert chosen.start < len(until)
    assert abs(means[chosen.start] - wanted) <= min(abs(mean - wanted) for mean in until) + 1e-4


# ---- prompts of histories


def make_history(episodes, unfinished: int = 0, task: dict | None = None, seed: int = 0) -> dict:
    """A history whose episodes have these lengths and returns."""
    rng = np.random.default_rng(seed)
    lengths = [length for length, _ in episodes] + [unfinished]
    steps, ends = sum(lengths), np.cumsum(lengths)[:-1] - 1
    history = {
        "task": task or TASKS[0],
        "observations": rng.integers(0, [6, 4], (steps, 2)),
        "actions": rng.integers(3, size=steps),
        "rewards": rng.integers(-8, 8, steps) / 4,
        "terminations": np.isin(np.arange(steps), ends[::2]),
        "truncations": np.isin(np.arange(steps), ends[1::2]),
    }
    for end, (length, achieved) in zip(ends, episodes, strict=True):
        history["rewards"][end] = achieved - history["rewards"][end + 1 - length : end].sum()
    return history


def make_dataset(
    histories: list[dict], spaces=(OBSERVATION_SPACE, ACTION_SPACE), environment: str = "E-v0"
) -> Dataset:
    descriptions = [
        {
            "id": str(number),
            "task": task_json(history["task"]),
            "environment": environment,
            "algorithm": "test",
            "seed": 0,
        }
        for number, history in enumerate(histories)
    ]
    columns = [name for name in histories[0] if name != "task"]
    steps = {name: np.concatenate([history[name] for history in histories]) for name in columns}
    lengths = np.array([len(history["rewards"]) for history in histories])
    return Dataset(history_table(*spaces, descriptions, lengths, steps))


def draw(histories: list[dict], tasks=TASKS[:1], *, quantile=0.5, steps=1, streams=1, **arguments):
    return draw_prompts(make_dataset(histories), tasks, quantile=quantile, steps=steps, streams=streams, **arguments)


def assert_stretch(prompt: dict, history: dict, start: int, stop: int) -> None:
    for name in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(prompt[name], history[name][start:stop])
    ends = history["terminations"] | history["truncations"]
    np.testing.assert_array_equal(prompt["episode_starts"], np.append(True, ends)[start:stop])
    assert prompt["history_start"] == (start == 0)
    if start:
        assert prompt["previous_action"] == history["actions"][start - 1]
        assert prompt["previous_reward"] == history["rewards"][start - 1]


@pytest.mark.parametrize(("quantile", "start", "stop"), [(0, 0, 5), (0.5, 2, 9), (1, 5, 11)])
def test_a_prompt_holds_whole_consecutive_episodes(quantile, start, stop):
    history = make_history([(2, 0.0), (3, 1.0), (4, 3.0), (2, 5.0)], unfinished=3)
    (prompt,), returns = draw([history], quantile=quantile, steps=6, levels=[(0, 4)])
    assert_stretch(prompt, history, start, stop)
    assert prompt["episode_starts"][0] and (history["terminations"] | history["truncations"])[stop - 1]
    assert returns.tolist() == [{0: 0.5, 0.5: 2.0, 1: 4.0}[quantile]]
    assert "returns_to_go" not in prompt


def test_a_prompt_says_what_was_to_come_of_its_episodes_returns_if_asked():
    history = make_history([(2, 0.0), (3, 1.0), (4, 3.0), (2, 5.0)], unfinished=3)
    (prompt,), _ = draw([history], quantile=1, steps=6, levels=[(0, 4)], returns_to_go=True)
    expected = [history["rewards"][step:9].sum() for step in range(5, 9)]
    expected += [history["rewards"][step:11].sum() for step in range(9, 11)]
    assert prompt["returns_to_go"].tolist() == expected
    assert prompt["returns_to_go"][[0, 4]].tolist() == [3.0, 5.0]


@pytest.mark.parametrize(("longest", "start"), [(9, 2), (6, 5), (5, 6), (1, 10)])
def test_a_prompt_that_is_too_long_loses_its_first_steps(longest, start):
    history = make_history([(2, 0.0), (3, 1.0), (4, 3.0), (2, 5.0)])
    (prompt,), returns = draw([history], quantile=1, steps=9, longest=longest, returns_to_go=True)
    assert_stretch(prompt, history, start, 11)
    assert returns.tolist() == [3.0]
    whole, _ = draw([history], quantile=1, steps=9, returns_to_go=True)
    assert prompt["returns_to_go"].tolist() == whole[0]["returns_to_go"][-longest:].tolist()


def test_what_a_history_breaks_off_is_no_episode_that_could_be_shown():
    history = make_history([(2, 0.0), (2, 1.0)], unfinished=5)
    history["rewards"][4:] = 100.0
    (prompt,), returns = draw([history], quantile=1, steps=1000)
    assert_stretch(prompt, history, 0, 4)
    assert returns.tolist() == [0.5]


def test_streams_of_a_task_take_its_histories_in_turn():
    of_tasks = [[make_history([(2, 1.0)], task=task, seed=10 * index + n) for n in range(3 - index)]
                for index, task in enumerate(TASKS)]  # fmt: skip
    histories = [of_tasks[1][0], of_tasks[0][0], of_tasks[0][1], of_tasks[1][1], of_tasks[0][2]]
    other = make_history([(2, 1.0)], task={"goal": [9, 9]}, seed=99)
    prompts, returns = draw([other, *histories], TASKS, streams=10)
    assert len(prompts) == 10 and returns.tolist() == [1.0] * 10
    for stream, prompt in enumerate(prompts):
        own = of_tasks[stream % 2]
        assert_stretch(prompt, own[stream // 2 % len(own)], 0, 2)
    # Where each has one of its own, no two are the same.
    assert len({prompt["observations"].tobytes() for prompt in prompts}) == 5


def test_each_task_is_measured_by_its_own_levels():
    histories = [make_history([(1, value) for value in (0.0, 1.0, 2.0, 3.0)], task=task) for task in TASKS]
    for levels, expected in (([(0, 2), (0, 6)], [1, 3]), ([(None, 2), (0, None)], [1, 2]), (None, [2, 2])):
        _, returns = draw(histories, TASKS, quantile=0.5, streams=2, levels=levels)
        assert returns.tolist() == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"quantile": -0.1}, "quantile -0.1 .*from 0 to 1"),
        ({"quantile": 1.1}, "quantile 1.1"),
        ({"quantile": float("nan")}, "quantile nan"),
        ({"steps": 0}, "0 steps.*at least 1"),
        ({"steps": -3}, "-3 steps"),
        ({"tasks": [{"goal": [1, 1]}]}, r'no history of the task \{"goal": \[1, 1\]\}'),
        ({"tasks": TASKS, "streams": 2}, r"no history of the task .*2, 2"),
    ],
)
def test_wrong_prompts_are_refused(arguments, named):
    with pytest.raises(ValueError, match=named):
        draw([make_history([(2, 1.0)])], **arguments)


def test_histories_that_cannot_be_shown_are_refused():
    history = make_history([(2, 1.0)])
    with pytest.raises(ValueError, match=r"task \{\"goal\": \[0, 1\]\} has no finished episode"):
        draw([make_history([], unfinished=3)])
    whole = make_dataset([history])
    arguments = {"quantile": 0.5, "steps": 1, "streams": 1}
    for column in ("task", "episode_returns", "observations"):
        with pytest.raises(ValueError, match=rf"lacks the columns \['{column}'\]"):
            draw_prompts(whole.remove_columns(column), TASKS[:1], **arguments)
    with pytest.raises(ValueError, match=r"splits \['test'\]: choose one"):
        draw_prompts(DatasetDict({"test": whole}), TASKS[:1], **arguments)


# ---- acting after a prompt


def recorded(life: Life, actions: np.ndarray, stop: int) -> list[dict]:
    """The first steps of every stream of a life as the history of a task of its own."""
    return [
        {
            "task": TASKS[stream],
            "observations": life.observations[:stop, stream],
            "actions": actions[:stop, stream],
            "rewards": life.rewards[:stop, stream],
            "terminations": life.terminations[:stop, stream],
            "truncations": life.truncations[:stop, stream],
        }
        for stream in range(life.streams)
    ]


@pytest.mark.parametrize("layout", ["transition", "interleaved"])
def test_an_agent_prompted_with_its_own_history_goes_on_as_it_did(layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, context_length=17)
    life = Life(steps=26, streams=2)
    life.terminations[11] = True
    lived = model.agent(tokeniser, 2, action_selection="greedy")
    logits = record_logits(lived)
    actions = live(lived, life)

    prompts, _ = draw(recorded(life, actions, 12), TASKS, quantile=0, steps=12, streams=2)
    assert [len(prompt["rewards"]) for prompt in prompts] == [12, 12]
    prompted = model.agent(tokeniser, 2, action_selection="greedy")
    prompted.reset(prompt=prompts)
    prompted_logits = record_logits(prompted)
    np.testing.assert_array_equal(live(prompted, life, range(12, 26)), actions[12:])
    np.testing.assert_allclose(np.stack(prompted_logits), np.stack(logits)[12:], rtol=0, atol=1e-4)
    assert len(np.unique(actions[12:])) > 1


def prompted_context(model, tokeniser, prompt: dict) -> NaiveContext:
    """A context of these transitions, and what came before them out of sight."""
    context = NaiveContext(model, tokeniser, model.config.context_length)
    before = [] if prompt["history_start"] else [(None, prompt["previous_action"], prompt["previous_reward"], False)]
    steps = zip(*(prompt[name] for name in ("observations", "actions", "rewards", "episode_starts")), strict=True)
    context.transitions, context.first = [*before, *steps], len(before)
    return context


def test_episodes_from_the_middle_of_a_history_are_read_as_such():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=9)
    history = make_history([(2, 0.0), (3, 1.0), (4, 3.0), (2, 5.0)])
    (prompt,), _ = draw([history], quantile=0.5, steps=6, levels=[(0, 4)])
    assert not prompt["history_start"]
    agent = model.agent(tokeniser, 1, action_selection="greedy")
    agent.reset(prompt=prompt)
    logits, life = record_logits(agent), Life(steps=12, streams=1)
    actions = live(agent, life)
    context = prompted_context(model, tokeniser, prompt)
    for step in range(12):
        observation = life.observations[step, 0]
        np.testing.assert_allclose(logits[step][0], context.logits(observation).numpy(), rtol=0, atol=1e-4)
        context.add(observation, actions[step, 0], life.rewards[step, 0], life.done[step, 0])


# ---- evaluation


@pytest.fixture(scope="module")
def histories() -> Dataset:
    """Histories of two learners on each task of a small Dark Room."""
    settings = Collection(DARK_ROOM, "q_learning", {"test": TASKS}, 2, episodes=80, environment_kwargs=ROOM)
    with tqdm(disable=True) as bar:
        return Dataset(run_learners(settings, Batch("test", 0, 0, TASKS * 2), bar))


def room_model(**settings):
    tokeniser = tiny_tokeniser(MultiDiscrete([3, 3]), Discrete(5), **settings)
    return tokeniser, tiny_model(
        tokeniser,
        context_length=16,
        environment=DARK_ROOM,
        environment_kwargs=ROOM,
        test_tasks=TASKS,
        target_return=2.0 if tokeniser.return_conditioned else None,
    )


def test_a_prompted_rollout_returns_what_naive_prompted_streams_return(histories):
    tokeniser, model = room_model()
    found = evaluate(
        model, tokeniser, episodes=3, streams=4, action_selection="greedy", prompt_from=histories, prompt_quantile=0.5
    )
    levels = reference_returns(DARK_ROOM, ROOM, TASKS)
    prompts, returns = draw_prompts(histories, TASKS, quantile=0.5, steps=8, streams=4, levels=levels)
    assert found["prompt"] == {"quantile": 0.5, "episode_return": returns.mean(), "steps": 8.0}
    expected = np.zeros((4, 3))
    for stream, prompt in enumerate(prompts):
        env: gymnasium.Env = DarkRoomEnv(TASKS[stream % 2], **ROOM)
        context = prompted_context(model, tokeniser, prompt)
        for episode in range(3):
            observation, _ = env.reset(seed=0)
            done = False
            while not done:
                action = tokeniser.decode(context.logits(observation)[None])[0]
                next_observation, reward, terminated, truncated, _ = env.step(action)
                done = terminated or truncated
                context.add(observation, action, reward, done)
                observation, expected[stream, episode] = next_observation, expected[stream, episode] + float(reward)
    np.testing.assert_allclose(found["episode_return"]["per_task"], (expected[:2] + expected[2:]) / 2)
    plain = evaluate(model, tokeniser, episodes=3, streams=4, action_selection="greedy")
    assert plain["episode_return"] != found["episode_return"]


def test_a_result_says_how_it_was_prompted_only_if_it_was(histories, tmp_path):
    tokeniser, model = room_model()
    plain = evaluate(model, tokeniser, episodes=2, streams=2)
    prompted = evaluate(model, tokeniser, episodes=2, streams=2, prompt_from=histories)
    assert [name for name in prompted if name != "prompt"] == list(plain)
    assert prompted["prompt"]["quantile"] == 0.5
    assert "prompted" not in summary(plain)
    assert f"prompted with {prompted['prompt']['episode_return']:.2f}" in summary(prompted).splitlines()[-1]
    write_result(prompted, tmp_path / "prompted")
    write_result({**prompted, "prompt": plain}["prompt"], tmp_path / "plain")
    pictures = [(tmp_path / name / "learning_curve.png").read_bytes() for name in ("prompted", "plain")]
    assert pictures[0] != pictures[1]


def test_prompts_are_half_a_context_unless_their_steps_are_given(histories):
    tokeniser, model = room_model()
    for arguments, steps in (
        ({}, 8),
        ({"context_length": 32}, 16),
        ({"context_length": 3}, 2),  # of an episode of four steps what fits
        ({"prompt_steps": 5}, 4),
        ({"prompt_steps": 13}, 12),
        ({"prompt_steps": 10_000}, 15),  # no more than is seen in the first step
    ):
        found = evaluate(model, tokeniser, episodes=1, streams=2, prompt_from=histories, **arguments)
        assert found["prompt"]["steps"] == steps


def test_all_of_a_prompt_is_seen_by_the_first_step(histories):
    """A context that is full is halved to make room: of a prompt that filled it, half would be lost."""
    tokeniser, model = room_model()
    arguments = {"quantile": 1, "steps": 1000, "streams": 2, "context_length": 16}
    prompts, _ = make_prompts(histories, DARK_ROOM, ROOM, TASKS, **arguments)
    agent = model.agent(tokeniser, 2)
    agent.reset(prompt=prompts)
    agent.act(np.zeros((2, 2), dtype=np.int64))
    assert [len(prompt["rewards"]) for prompt in prompts] == [15, 15]
    assert [group.length for group in agent._groups] == [16]


def test_prompts_are_as_good_as_asked_between_random_and_optimal_behaviour(histories):
    tokeniser, model = room_model()
    arguments = {"episodes": 1, "streams": 4, "prompt_from": histories, "prompt_steps": 4}
    levels = np.array(reference_returns(DARK_ROOM, ROOM, TASKS))
    found = []
    for quantile in (0, 0.5, 0.75, 1):
        result = evaluate(model, tokeniser, prompt_quantile=quantile, **arguments)
        found.append(result["prompt"]["episode_return"])
        if quantile < 1:  # so far all of these learners get
            assert abs(found[-1] - (levels[:, 0] + quantile * (levels[:, 1] - levels[:, 0])).mean()) < 1
    assert found == sorted(found) and found[0] < found[1] < found[-1]
    assert found[-1] == np.mean([max(returns) for returns in histories["episode_returns"]])


def test_a_model_that_reads_returns_is_prompted_with_those_of_the_source(histories):
    tokeniser, model = room_model(return_conditioned=True)
    arguments = {"episodes": 2, "streams": 2, "action_selection": "greedy"}
    found = evaluate(model, tokeniser, prompt_from=histories, prompt_quantile=1, **arguments)
    prompts, _ = draw_prompts(histories, TASKS, quantile=1, steps=8, streams=2, returns_to_go=True)
    expected, _ = rollout(model, tokeniser, DARK_ROOM, TASKS, environment_kwargs=ROOM, prompts=prompts, **arguments)
    assert found["episode_return"]["per_task"] == expected[:, 0].tolist()
    assert (found["target_return"], found["prompt"]["quantile"]) == (2.0, 1)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": []}, "There is no task to act on"),
        ({"streams": 3}, "streams=3 is not a multiple of the 2 tasks"),
        ({"streams": 0}, "streams=0 is not a multiple"),
        ({"episodes": 0}, "episodes=0"),
        ({"prompt_quantile": 2}, "quantile 2"),
        ({"prompt_steps": 0}, "0 steps"),
        ({"tasks": [{"goal": [0, 0]}]}, r"no history of the task .*0, 0"),
        ({"context_length": 0}, "context_length=0"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wrong_arguments_of_a_prompted_evaluation_are_refused(histories, arguments, named):
    tokeniser, model = room_model()
    with pytest.raises(ValueError, match=named):
        evaluate(model, tokeniser, **{"episodes": 1, "streams": 2, "prompt_from": histories, **arguments})


def test_prompts_of_another_environment_are_refused():
    tokeniser, model = room_model()
    own = [make_history([(4, 1.0)], task=task) for task in TASKS]
    for environment, named in (
        ("algodistill/DarkRoomHard-v0", "expected only algodistill/DarkRoom-v0"),
        (DARK_ROOM, "outside"),
    ):
        elsewhere = make_dataset(own, environment=environment)
        with pytest.raises(ValueError, match=named):
            evaluate(model, tokeniser, episodes=1, streams=2, prompt_from=elsewhere)
