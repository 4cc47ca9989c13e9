from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tiny import (
    ACTION_SPACE,
    CORRIDOR,
    OBSERVATION_SPACE,
    CorridorEnv,
    NaiveContext,
    corridor_tasks,
    random_elements,
    random_window,
    slice_window,
    tiny_model,
    tiny_tokeniser,
)

from algodistill.models import AlgorithmDistillationAgent, AlgorithmDistillationModel, HistoryTokeniser


class Life:
    """What happens to streams whatever they do: random observations, rewards and ends of episodes.

    `observations` has the shape `(steps, streams, ...)`, the others `(steps, streams)`.
    """

    def __init__(self, steps: int, streams: int, seed: int = 0, observation_space: Any = OBSERVATION_SPACE):
        rng = np.random.default_rng(seed)
        self.steps, self.streams = steps, streams
        self.observations = random_elements(observation_space, (steps, streams), rng)
        self.rewards = rng.normal(size=(steps, streams)).astype(np.float32)
        self.terminations = rng.random((steps, streams)) < 0.15
        self.truncations = rng.random((steps, streams)) < 0.1

    @property
    def done(self) -> np.ndarray:
        return self.terminations | self.truncations

    def of(self, streams: Any) -> "Life":
        """The life of some of the streams."""
        part = Life(0, 0)
        part.steps, part.streams = self.steps, len(streams)
        for name in ("observations", "rewards", "terminations", "truncations"):
            setattr(part, name, getattr(self, name)[:, streams])
        return part


def record_logits(agent: AlgorithmDistillationAgent) -> list[np.ndarray]:
    """A list that every later `act` adds its logits to, `(streams, actions)`."""
    seen: list[np.ndarray] = []
    decode, act = agent.tokeniser.decode, agent.act
    latest: list[torch.Tensor] = []

    def recording_decode(logits: torch.Tensor, uniforms: torch.Tensor | None = None) -> np.ndarray:
        latest.append(logits)
        return decode(logits, uniforms)

    def recording_act(observations: Any) -> np.ndarray:
        agent.tokeniser.decode = recording_decode
        try:
            actions = act(observations)
        finally:
            del agent.tokeniser.decode
        seen.append(latest[-1].detach().cpu().numpy().copy())
        return actions

    agent.act = recording_act
    return seen


def live(
    agent: AlgorithmDistillationAgent,
    life: Life,
    steps: range | None = None,
    before: Callable[[int], None] = lambda step: None,
) -> np.ndarray:
    """Actions of an agent that lives through steps of a life, `(steps, streams, ...)`."""
    actions = []
    for step in range(life.steps) if steps is None else steps:
        before(step)
        actions.append(agent.act(life.observations[step]))
        agent.observe(life.rewards[step], life.terminations[step], life.truncations[step])
    return np.stack(actions)


def naive_logits(
    model: AlgorithmDistillationModel,
    tokeniser: HistoryTokeniser,
    life: Life,
    actions: np.ndarray,
    context_length: int,
    resets: dict[int, np.ndarray] | None = None,
    target_return: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of every step and stream by full passes over lists of transitions, and the steps each could see."""
    targets = [target_return] * life.streams if np.ndim(target_return) == 0 else target_return
    contexts = [NaiveContext(model, tokeniser, context_length, target) for target in targets]
    logits = np.zeros((life.steps, life.streams, sum(tokeniser.action_sizes)), dtype=np.float32)
    lengths = np.zeros((life.steps, life.streams), dtype=int)
    for step in range(life.steps):
        for stream in range(life.streams):
            if resets and step in resets and resets[step][stream]:
                contexts[stream] = NaiveContext(model, tokeniser, context_length, targets[stream])
            context = contexts[stream]
            observation = life.observations[step, stream]
            logits[step, stream] = context.logits(observation).numpy()
            lengths[step, stream] = context.length + 1
            context.add(observation, actions[step, stream], life.rewards[step, stream], life.done[step, stream])
    return logits, lengths


KINDS = [("qwen3", "transition"), ("qwen3", "interleaved"), ("gpt2", "transition"), ("mistral", "transition")]
CONTEXTS = [1, 2, 7, 8]


@pytest.mark.parametrize(
    ("decoder", "layout", "context_length"),
    [
        *((*kind, context_length) for kind in KINDS for context_length in CONTEXTS),
        ("falcon_h1", "transition", 7),
        ("gemma3_text", "interleaved", 8),
        ("mamba2", "transition", 7),
    ],
)
def test_cached_logits_are_those_of_reading_the_whole_context_again(decoder, layout, context_length):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder, context_length=context_length)
    life = Life(steps=2 * context_length + 6, streams=2)
    agent = model.agent(tokeniser, num_envs=2, seed=1)
    logits, lengths = record_logits(agent), []
    actions = live(agent, life, before=lambda step: lengths.append(agent.context_lengths))

    expected, expected_lengths = naive_logits(model, tokeniser, life, actions, context_length)
    np.testing.assert_allclose(np.stack(logits), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(np.stack(lengths)[1:], expected_lengths[:-1])
    # The contexts grew, were full, and rolled over more than once; and each step showed in the logits.
    assert expected_lengths.max() == context_length
    assert (np.diff(expected_lengths[:, 0]) <= 0).sum() >= 2
    assert expected.std(axis=0).min() > 0.01


@pytest.mark.parametrize("context_length", [1, 2, 3, 6, 9])
def test_each_step_sees_between_half_and_all_of_the_context(context_length):
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    agent = model.agent(tokeniser, num_envs=1, context_length=context_length)
    seen = []
    life = Life(steps=5 * context_length, streams=1)
    for step in range(life.steps):
        agent.act(life.observations[step])
        seen.append(int(agent.context_lengths[0]))
        agent.observe(life.rewards[step], life.terminations[step], life.truncations[step])
    assert seen[:context_length] == list(range(1, context_length + 1))
    later = seen[context_length:]
    assert min(later) == (context_length + 1) // 2 and max(later) == context_length


def test_a_growing_context_is_read_one_step_at_a_time():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=8)
    read = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["observations"].shape[1]), with_kwargs=True
    )
    live(model.agent(tokeniser, num_envs=3), Life(steps=17, streams=3))
    assert read == [1] * 8 + [4] + [1] * 4 + [4] + [1] * 3


SPACES = {
    "discrete with a start": (Discrete(5, start=2), Discrete(3, start=-1)),
    "multidiscrete": (MultiDiscrete([4, 3], start=[1, -2]), MultiDiscrete([3, 2], start=[5, 0])),
    "multibinary": (MultiBinary(3), MultiBinary(2)),
}


@pytest.mark.parametrize(("observation_space", "action_space"), SPACES.values(), ids=SPACES)
def test_agents_act_in_any_discrete_space(observation_space, action_space):
    tokeniser = tiny_tokeniser(observation_space, action_space)
    model = tiny_model(tokeniser, context_length=5)
    life = Life(steps=14, streams=2, observation_space=observation_space)
    agent = model.agent(tokeniser, num_envs=2)
    logits = record_logits(agent)
    actions = live(agent, life)
    assert actions.shape == (14, 2, *action_space.shape)
    assert all(action_space.contains(action) for step in actions for action in step)
    expected, _ = naive_logits(model, tokeniser, life, actions, 5)
    np.testing.assert_allclose(np.stack(logits), expected, rtol=0, atol=1e-4)


# ---- streams


def draw_from(monkeypatch: pytest.MonkeyPatch, uniforms: np.ndarray) -> Callable[[list[int]], None]:
    """Let agents draw `uniforms` of shape `(steps, streams, dimensions)`, those of the streams named last."""
    state: dict[str, Any] = {}

    def rand(*shape: int, **kwargs: Any) -> torch.Tensor:
        values = torch.tensor(uniforms[state["step"], state["streams"]])
        assert tuple(values.shape) == shape
        state["step"] += 1
        return values

    def begin(streams: list[int]) -> None:
        state.update(step=0, streams=streams)

    monkeypatch.setattr(torch, "rand", rand)
    return begin


@pytest.mark.parametrize(("decoder", "layout"), [*KINDS, ("falcon_h1", "transition")])
@pytest.mark.parametrize(
    "resets",
    [
        {},
        {3: [1]},  # before any context is full
        {9: [0, 2]},  # between two roll-overs
        {3: [1], 7: [1], 12: [0], 13: [2]},
        {0: [0], 7: [0, 1, 2]},
    ],
    ids=["none", "growing", "rolled over", "many", "all"],
)
def test_a_batch_of_streams_acts_as_that_many_agents_of_one(decoder, layout, resets, monkeypatch):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder, context_length=7)
    life = Life(steps=20, streams=3)
    begin = draw_from(monkeypatch, np.random.default_rng(9).random((20, 3, 1)))

    def actions_of(streams: list[int]) -> tuple[np.ndarray, np.ndarray]:
        begin(streams)
        agent = model.agent(tokeniser, num_envs=len(streams))
        logits = record_logits(agent)

        def reset(step: int) -> None:
            mask = np.isin(streams, resets.get(step, []))
            if mask.any():
                agent.reset(mask)

        return live(agent, life.of(streams), before=reset), np.stack(logits)

    together, logits = actions_of([0, 1, 2])
    assert len(np.unique(together)) == 3
    for stream in range(3):
        alone, logits_alone = actions_of([stream])
        np.testing.assert_array_equal(together[:, stream], alone[:, 0])
        np.testing.assert_allclose(logits[:, stream], logits_alone[:, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("reset_at", [2, 5, 6, 11])
def test_a_reset_empties_the_contexts_of_its_streams_alone(reset_at):
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=6)
    life = Life(steps=18, streams=3)
    mask = np.array([False, True, False])
    agent = model.agent(tokeniser, num_envs=3)
    logits = record_logits(agent)
    lengths = {}

    def reset(step: int) -> None:
        if step == reset_at:
            lengths["before"] = agent.context_lengths
            agent.reset(mask)
            lengths["after"] = agent.context_lengths

    actions = live(agent, life, before=reset)
    assert lengths["after"].tolist() == [lengths["before"][0], 0, lengths["before"][2]]
    assert (lengths["before"] > 0).all()
    # The stream's next observation is the first of an episode and of a history.
    expected, _ = naive_logits(model, tokeniser, life, actions, 6, resets={reset_at: mask})
    np.testing.assert_allclose(np.stack(logits), expected, rtol=0, atol=1e-4)


def test_a_reset_between_acting_and_observing_leaves_nothing_of_the_old_context():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=6)
    life = Life(steps=12, streams=2)
    life.rewards[4], life.terminations[4] = 5.0, [False, True]
    mask = np.array([True, False])
    agent = model.agent(tokeniser, num_envs=2)
    logits, actions = record_logits(agent), []
    for step in range(life.steps):
        actions.append(agent.act(life.observations[step]))
        if step == 4:
            agent.reset(mask)
        # Of the stream that was reset, this belongs to an action that its context has no record of.
        agent.observe(life.rewards[step], life.terminations[step], life.truncations[step])
    expected, _ = naive_logits(model, tokeniser, life, np.stack(actions), 6, resets={5: mask})
    np.testing.assert_allclose(np.stack(logits), expected, rtol=0, atol=1e-4)


def test_a_reset_of_all_streams_starts_over():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=6)
    life = Life(steps=9, streams=2)
    agent = model.agent(tokeniser, num_envs=2, action_selection="greedy")
    first = live(agent, life)
    agent.act(life.observations[0])
    agent.reset()  # an action under way does not matter
    assert agent.context_lengths.tolist() == [0, 0]
    np.testing.assert_array_equal(live(agent, life), first)
    assert len(np.unique(first)) > 1


# ---- episodes


def test_a_context_survives_an_episodes_end():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=10)
    last_logits = []
    for first_observation in ([0, 0], [3, 2]):
        life = Life(steps=6, streams=1)
        life.terminations[:], life.truncations[:] = False, False
        life.terminations[2], life.truncations[4] = True, True
        life.observations[0] = first_observation
        agent = model.agent(tokeniser, num_envs=1)
        logits = record_logits(agent)
        live(agent, life)
        assert agent.context_lengths.tolist() == [6]
        last_logits.append(logits[-1])
    # Two episodes later, the first observation still counts.
    assert np.abs(last_logits[0] - last_logits[1]).max() > 1e-3


def test_an_episodes_start_shows():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    outcomes = {}
    for name in ("neither", "terminations", "truncations"):
        life = Life(steps=4, streams=1)
        life.terminations[:], life.truncations[:] = False, False
        if name != "neither":
            getattr(life, name)[1] = True
        agent = model.agent(tokeniser, num_envs=1, action_selection="greedy")
        logits = record_logits(agent)
        live(agent, life, steps=range(3))
        outcomes[name] = logits[2]
    np.testing.assert_array_equal(outcomes["terminations"], outcomes["truncations"])
    assert np.abs(outcomes["terminations"] - outcomes["neither"]).max() > 1e-3


def corridors(autoreset_mode: AutoresetMode, count: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv(
        [lambda task=task: gymnasium.make(CORRIDOR, task=task) for task in corridor_tasks(count)],
        autoreset_mode=autoreset_mode,
    )


def run_corridors(
    mode: str, layout: str, context_length: int, steps: int = 40, target_return: Any = None
) -> dict[str, Any]:
    """Run an agent in corridors; its transitions, its contexts' lengths, and the observations its model read."""
    envs = corridors(AutoresetMode.SAME_STEP if mode == "same_step" else AutoresetMode.NEXT_STEP)
    tokeniser = tiny_tokeniser(layout=layout, return_conditioned=target_return is not None)
    model = tiny_model(tokeniser, context_length=context_length)
    read, given = [], []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["observations"].flatten(0, 1)), with_kwargs=True
    )
    agent = model.agent(
        tokeniser, envs.num_envs, action_selection="greedy", autoreset_mode=mode, target_return=target_return
    )
    recorded_logits = record_logits(agent)
    transitions = [[] for _ in range(envs.num_envs)]
    logits = [[] for _ in range(envs.num_envs)]
    dummy = np.zeros(envs.num_envs, dtype=bool)
    observations, _ = envs.reset(seed=11)
    for _ in range(steps):
        given.append(observations)
        actions = agent.act(observations)
        next_observations, rewards, terminations, truncations, _ = envs.step(actions)
        agent.observe(rewards, terminations, truncations)
        for stream in np.flatnonzero(~dummy):
            step = (observations[stream].tolist(), int(actions[stream]), float(rewards[stream]))
            transitions[stream].append((*step, bool(terminations[stream]), bool(truncations[stream])))
            logits[stream].append(recorded_logits[-1][stream])
        done = terminations | truncations
        dummy = done & ~dummy if mode == "next_step" else np.zeros_like(done)
        observations = next_observations
    envs.close()
    return {
        "transitions": transitions,
        "logits": logits,
        "lengths": agent.context_lengths,
        "cells read": {int(cell) for values in read for cell in values[:, 0]},
        "cells given": set(np.stack(given)[..., 0].flatten().tolist()),
    }


@pytest.mark.parametrize("layout", ["transition", "interleaved"])
@pytest.mark.parametrize("context_length", [5, 100])
@pytest.mark.parametrize("target_return", [None, [2.0, -1.0, 4.0]], ids=["unconditioned", "conditioned"])
def test_the_dummy_step_of_next_step_autoreset_enters_no_context(layout, context_length, target_return):
    same = run_corridors("same_step", layout, context_length, target_return=target_return)
    following = run_corridors("next_step", layout, context_length, target_return=target_return)
    assert len({action for stream in same["transitions"] for _, action, *_ in stream}) > 1
    for stream in range(3):
        lived = len(following["transitions"][stream])
        ends = sum(step[3] or step[4] for step in following["transitions"][stream])
        assert 10 < lived < len(same["transitions"][stream]) and ends > 3
        assert following["transitions"][stream] == same["transitions"][stream][:lived]
        np.testing.assert_allclose(
            np.stack(following["logits"][stream]), np.stack(same["logits"][stream])[:lived], rtol=0, atol=1e-4
        )
    if context_length == 100:
        assert following["lengths"].tolist() == [len(stream) for stream in following["transitions"]]


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_terminal_observations_enter_no_context(mode):
    run = run_corridors(mode, "transition", 7)
    assert (CorridorEnv.TERMINAL_CELL in run["cells given"]) == (mode == "next_step")
    assert run["cells read"] == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("targets", [[None] * 3, [2.0, -1.0, 4.0]], ids=["unconditioned", "conditioned"])
@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_an_agent_in_corridors_sees_what_a_full_pass_sees(mode, targets):
    conditioned = targets[0] is not None
    run = run_corridors(mode, "transition", 7, target_return=targets if conditioned else None)
    tokeniser = tiny_tokeniser(return_conditioned=conditioned)
    model = tiny_model(tokeniser, context_length=7)
    for transitions, logits, target in zip(run["transitions"], run["logits"], targets, strict=True):
        context = NaiveContext(model, tokeniser, 7, target)
        for (observation, action, reward, terminated, truncated), found in zip(transitions, logits, strict=True):
            np.testing.assert_allclose(found, context.logits(observation).numpy(), rtol=0, atol=1e-4)
            context.add(observation, action, reward, terminated or truncated)


# ---- prompts


def lived_through(life: Life, actions: np.ndarray, stream: int, start: int, stop: int) -> dict[str, np.ndarray]:
    """A stretch of a stream's life that begins a history, as a window."""
    starts = np.concatenate([[True], life.done[start : stop - 1, stream]])
    return {
        "observations": life.observations[start:stop, stream],
        "actions": actions[start:stop, stream],
        "rewards": life.rewards[start:stop, stream],
        "episode_starts": starts,
        "history_start": np.bool_(True),
    }


@pytest.mark.parametrize(("decoder", "layout"), KINDS)
def test_a_prompt_is_as_good_as_having_lived_through_it(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder, context_length=9)
    life = Life(steps=20, streams=3)
    life.terminations[7] = True  # what follows a prompt is an episode's first observation
    starts = [0, 3, 6]

    def reset(step: int) -> None:
        mask = np.array([start == step for start in starts])
        if step and mask.any():
            lived.reset(mask)

    lived = model.agent(tokeniser, num_envs=3, action_selection="greedy")
    logits = record_logits(lived)
    actions = live(lived, life, before=reset)

    prompts = [lived_through(life, actions, stream, start, 8) for stream, start in enumerate(starts)]
    assert [len(prompt["rewards"]) for prompt in prompts] == [8, 5, 2]
    prompted = model.agent(tokeniser, num_envs=3, action_selection="greedy")
    prompted.reset(prompt=prompts)
    assert prompted.context_lengths.tolist() == [8, 5, 2]
    prompted_logits = record_logits(prompted)
    np.testing.assert_array_equal(live(prompted, life, range(8, 20)), actions[8:])
    np.testing.assert_allclose(np.stack(prompted_logits), np.stack(logits)[8:], rtol=0, atol=1e-4)
    assert len(np.unique(actions[8:])) > 1


@pytest.mark.parametrize("context_length", [1, 2, 5, 6])
@pytest.mark.parametrize("surplus", [0, 1, 7])
def test_of_a_prompt_longer_than_the_context_the_newest_steps_count(context_length, surplus):
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=context_length)
    steps = context_length + surplus
    prompt = random_window(steps, 4)
    life = Life(steps=2 * context_length + 3, streams=1)

    logits = {}
    for name, window in (("whole", prompt), ("newest", slice_window(prompt, steps - context_length, steps))):
        agent = model.agent(tokeniser, num_envs=1, action_selection="greedy")
        agent.reset(prompt=window)
        assert agent.context_lengths.tolist() == [context_length]
        logits[name] = record_logits(agent)
        actions = live(agent, life)
    np.testing.assert_allclose(np.stack(logits["whole"]), np.stack(logits["newest"]), rtol=0, atol=1e-5)

    context = NaiveContext(model, tokeniser, context_length)
    context.transitions = list(
        zip(*(prompt[name] for name in ("observations", "actions", "rewards", "episode_starts")), strict=True)
    )
    context.first = surplus
    for step in range(life.steps):
        observation = life.observations[step, 0]
        np.testing.assert_allclose(logits["whole"][step][0], context.logits(observation).numpy(), rtol=0, atol=1e-4)
        context.add(observation, actions[step, 0], life.rewards[step, 0], life.done[step, 0])


def test_one_prompt_serves_all_streams():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    prompt = random_window(4, 0)
    life = Life(steps=10, streams=3)
    logits = []
    for prompts in (prompt, [prompt] * 3, None):
        agent = model.agent(tokeniser, num_envs=3, action_selection="greedy")
        agent.reset(prompt=prompts)
        assert agent.context_lengths.tolist() == ([0, 0, 0] if prompts is None else [4, 4, 4])
        logits.append(record_logits(agent))
        live(agent, life)
    np.testing.assert_array_equal(np.stack(logits[0]), np.stack(logits[1]))
    assert np.abs(np.stack(logits[0]) - np.stack(logits[2])).max() > 1e-2


def test_prompts_go_to_the_masked_streams_in_order():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, context_length=7)
    prompts = [random_window(3, 0), random_window(5, 1)]
    life, before = Life(steps=12, streams=3), Life(steps=4, streams=3, seed=1)
    agent = model.agent(tokeniser, num_envs=3, action_selection="greedy")
    live(agent, before)
    agent.reset(np.array([True, False, True]), prompt=prompts)
    assert agent.context_lengths.tolist() == [3, 4, 5]
    logits = record_logits(agent)
    live(agent, life)
    for stream, prompt in ((0, prompts[0]), (2, prompts[1])):
        alone = model.agent(tokeniser, num_envs=1, action_selection="greedy")
        alone.reset(prompt=prompt)
        logits_alone = record_logits(alone)
        live(alone, life.of([stream]))
        np.testing.assert_allclose(np.stack(logits)[:, stream], np.stack(logits_alone)[:, 0], rtol=0, atol=1e-4)


def test_some_of_the_prompts_may_be_missing():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    agent = model.agent(tokeniser, num_envs=2)
    agent.reset(prompt=[None, random_window(3, 0)])
    assert agent.context_lengths.tolist() == [0, 3]


# ---- what is still to come of a return


def conditioned(decoder: str = "qwen3", layout: str = "transition", **config: Any) -> tuple[HistoryTokeniser, Any]:
    """A tokeniser that scales returns, and a model that reads them."""
    tokeniser = tiny_tokeniser(layout=layout, return_conditioned=True, return_scale=2.0)
    return tokeniser, tiny_model(tokeniser, decoder, **config)


def record_returns(model: AlgorithmDistillationModel) -> list[list[float]]:
    """A list that every later step of an agent of one group adds the returns to, that its streams ask for."""
    asked: list[list[float]] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append((kwargs["returns_to_go"][:, -1] * 2).tolist()), with_kwargs=True
    )
    return asked


@pytest.mark.parametrize(
    ("decoder", "layout", "context_length"),
    [*((*kind, 7) for kind in KINDS), ("qwen3", "transition", 2), ("falcon_h1", "transition", 7)],
)
def test_cached_logits_of_a_model_that_reads_returns_are_those_of_reading_the_whole_context_again(
    decoder, layout, context_length
):
    tokeniser, model = conditioned(decoder, layout, context_length=context_length)
    life, targets = Life(steps=2 * context_length + 6, streams=2), [6.0, -3.0]
    agent = model.agent(tokeniser, num_envs=2, seed=1, target_return=targets)
    logits = record_logits(agent)
    actions = live(agent, life)
    expected, lengths = naive_logits(model, tokeniser, life, actions, context_length, target_return=targets)
    np.testing.assert_allclose(np.stack(logits), expected, rtol=0, atol=1e-4)
    assert (np.diff(lengths[:, 0]) <= 0).sum() >= 2
    # What is asked for shows, and so does what has been paid of it.
    other, _ = naive_logits(model, tokeniser, life, actions, context_length, target_return=[6.0, 3.0])
    np.testing.assert_array_equal(other[:, 0], expected[:, 0])
    assert np.abs(other[:, 1] - expected[:, 1]).max(axis=-1).min() > 1e-3


def test_a_target_is_counted_down_by_what_is_paid_and_starts_over_with_an_episode():
    tokeniser, model = conditioned(context_length=20)
    asked = record_returns(model)
    agent = model.agent(tokeniser, num_envs=2, target_return=[4.0, -1.0])
    nothing = np.zeros(2, dtype=bool)
    for rewards, terminations, truncations in (
        ([1.0, 0.5], nothing, nothing),
        ([2.5, -3.0], nothing, nothing),
        ([3.0, 0.0], [True, False], nothing),  # more than was asked for; the last reward leaves nothing behind
        ([0.0, 1.25], nothing, [False, True]),
        ([0.5, 0.5], nothing, nothing),
        ([0.0, 0.0], nothing, nothing),
    ):
        agent.act(np.zeros((2, 2), dtype=int))
        agent.observe(rewards, terminations, truncations)
    assert asked == [[4, -1], [3, -1.5], [0.5, 1.5], [4, 1.5], [4, -1], [3.5, -1.5]]


def test_a_target_is_not_counted_down_by_the_dummy_step():
    tokeniser, model = conditioned(context_length=20)
    asked = record_returns(model)
    agent = model.agent(tokeniser, num_envs=1, target_return=4.0, autoreset_mode="next_step")
    for reward, done in ((1.0, False), (2.0, True), (9.0, False), (0.5, False), (0.0, False)):
        agent.act(np.zeros((1, 2), dtype=int))
        agent.observe([reward], [done], [False])
    assert asked == [[4], [3], [4], [3.5]]


@pytest.mark.parametrize("between", [False, True], ids=["before acting", "before observing"])
@pytest.mark.parametrize("reset_at", [2, 5, 11])
def test_a_reset_asks_its_streams_alone_for_the_whole_target_again(reset_at, between):
    tokeniser, model = conditioned(context_length=6)
    life, targets, mask = Life(steps=16, streams=3), [5.0, -2.0, 1.0], np.array([False, True, True])
    life.terminations[:], life.truncations[:] = False, False  # or the targets would start over anyway
    agent = model.agent(tokeniser, num_envs=3, target_return=targets)
    logits, actions = record_logits(agent), []
    for step in range(life.steps):
        if step == reset_at and not between:
            agent.reset(mask)
        actions.append(agent.act(life.observations[step]))
        if step == reset_at and between:
            agent.reset(mask)
        agent.observe(life.rewards[step], life.terminations[step], life.truncations[step])
    resets = {reset_at + between: mask}
    expected, _ = naive_logits(model, tokeniser, life, np.stack(actions), 6, resets, targets)
    np.testing.assert_allclose(np.stack(logits), expected, rtol=0, atol=1e-4)
    undisturbed, _ = naive_logits(model, tokeniser, life, np.stack(actions), 6, target_return=targets)
    assert np.abs(undisturbed - expected)[-1, 1:].max(axis=-1).min() > 1e-4


@pytest.mark.parametrize(("decoder", "layout"), KINDS)
def test_a_prompt_of_episodes_that_return_the_target_is_as_good_as_having_lived_through_them(decoder, layout):
    tokeniser, model = conditioned(decoder, layout, context_length=9)
    life, targets = Life(steps=18, streams=2), [3.0, -1.5]
    life.terminations[7] = True  # the prompt's end
    to_go = np.zeros((8, 2), dtype=np.float32)
    for stream, target in enumerate(targets):
        first = 0
        for last in np.flatnonzero(life.done[:8, stream]):
            life.rewards[last, stream] = target - life.rewards[first:last, stream].sum()
            for step in range(first, last + 1):
                to_go[step, stream] = life.rewards[step : last + 1, stream].sum()
            first = last + 1
    lived = model.agent(tokeniser, num_envs=2, action_selection="greedy", target_return=targets)
    logits = record_logits(lived)
    actions = live(lived, life)

    prompts = [{**lived_through(life, actions, stream, 0, 8), "returns_to_go": to_go[:, stream]} for stream in (0, 1)]
    prompted = model.agent(tokeniser, num_envs=2, action_selection="greedy", target_return=targets)
    prompted.reset(prompt=prompts)
    prompted_logits = record_logits(prompted)
    np.testing.assert_array_equal(live(prompted, life, range(8, 18)), actions[8:])
    np.testing.assert_allclose(np.stack(prompted_logits), np.stack(logits)[8:], rtol=0, atol=1e-4)
    # A prompt that says it returned more is another prompt.
    prompted.reset(prompt=[{**prompt, "returns_to_go": prompt["returns_to_go"] + 5} for prompt in prompts])
    live(prompted, life, range(8, 9))
    assert np.abs(prompted_logits[-1] - prompted_logits[0]).max(axis=-1).min() > 1e-3


def test_a_prompt_that_is_not_said_to_return_anything_is_refused_and_leaves_the_contexts_alone():
    tokeniser, model = conditioned(target_return=1.0)
    agent = model.agent(tokeniser, num_envs=2)
    agent.act([[0, 0], [1, 1]])
    agent.observe([0.5, 0.5], [False, False], [False, False])
    with pytest.raises(ValueError, match="returns_to_go is missing"):
        agent.reset(prompt=[random_window(2, 0, returns_to_go=True), random_window(2, 0)])
    assert agent.context_lengths.tolist() == [1, 1]
    asked = record_returns(model)
    agent.act([[0, 0], [1, 1]])
    assert asked == [[0.5, 0.5]]


def test_the_checkpoints_target_is_asked_for_unless_another_is_given():
    tokeniser, model = conditioned(target_return=2.5)
    asked = record_returns(model)
    for targets in ({}, {"target_return": 2.5}, {"target_return": 4}, {"target_return": np.array([0.0, -3.0])}):
        model.agent(tokeniser, num_envs=2, **targets).act([[0, 0], [1, 1]])
    assert asked == [[2.5, 2.5], [2.5, 2.5], [4, 4], [0, -3]]
    # What one agent was told is its own.
    given = np.array([1.0, 1.0])
    agent = model.agent(tokeniser, num_envs=2, target_return=given)
    agent.act([[0, 0], [1, 1]])
    given[:] = 9
    agent.observe([0.5, 0.5], [False, True], [False, False])
    agent.act([[0, 0], [1, 1]])
    assert asked[-1] == [0.5, 1.0] and model.config.target_return == 2.5


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (None, "names none to ask for: give target_return="),
        (float("nan"), "target_return=nan does not fit: expected a finite number, or 2 of them"),
        (float("inf"), "target_return=inf"),
        ([1.0, float("nan")], r"target_return=\[1.0, nan\]"),
        ([1.0], r"target_return=\[1.0\] does not fit"),
        ([1.0, 2.0, 3.0], "or 2 of them"),
        ([[1.0, 2.0]], "or 2 of them"),
    ],
    ids=str,
)
def test_a_target_that_does_not_fit_is_refused(target, named):
    tokeniser, model = conditioned()
    with pytest.raises(ValueError, match=named):
        model.agent(tokeniser, num_envs=2, target_return=target)


def test_a_model_that_reads_no_returns_is_not_asked_for_one():
    tokeniser = tiny_tokeniser()
    with pytest.raises(ValueError, match="target_return was given, but the model is not conditioned"):
        tiny_model(tokeniser).agent(tokeniser, num_envs=2, target_return=0)


# ---- choosing actions


def test_the_seed_alone_decides_what_is_sampled():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    life = Life(steps=30, streams=2)

    def actions(**kwargs: Any) -> list:
        torch.manual_seed(len(kwargs))  # what the global generators hold must not matter
        return live(model.agent(tokeniser, num_envs=2, **kwargs), life).tolist()

    assert actions(seed=1) == actions(seed=1, action_selection="sample")
    assert actions() == actions(seed=0)
    assert len({str(actions(seed=seed)) for seed in range(4)}) == 4
    greedy = actions(action_selection="greedy", seed=0)
    assert greedy == actions(action_selection="greedy", seed=5)
    assert greedy not in [actions(seed=seed) for seed in range(4)]


def test_temperature_sharpens_what_is_sampled_and_comes_with_the_checkpoint():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    observations = [[0, 0]] * 4000
    greedy = model.agent(tokeniser, 4000, action_selection="greedy").act(observations)
    shares = []
    for temperature in (2.0, None, 0.5, 0.0005):
        actions = model.agent(tokeniser, 4000, seed=0, temperature=temperature).act(observations)
        shares.append((actions == greedy).mean())
    assert shares == sorted(shares) and shares[0] < shares[1] - 0.02 and shares[-1] == 1.0

    model.config.temperature = 0.0005
    assert (model.agent(tokeniser, 4000, seed=0).act(observations) == greedy).all()
    with pytest.raises(ValueError, match="temperature=0"):
        model.agent(tokeniser, 1, temperature=0)


def test_greedy_takes_the_likeliest_and_sampling_follows_the_probabilities():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    streams = 4000
    observations = np.tile([2, 1], (streams, 1))
    greedy = model.agent(tokeniser, streams, action_selection="greedy")
    logits = record_logits(greedy)
    assert (greedy.act(observations) == logits[0].argmax(axis=1)).all()
    probabilities = torch.tensor(logits[0][0]).softmax(dim=0).numpy()
    counts = np.bincount(model.agent(tokeniser, streams, seed=0).act(observations), minlength=3)
    expected = probabilities * streams
    assert ((counts - expected) ** 2 / expected).sum() < 13.8  # 0.001 quantile of chi-square
    assert probabilities.max() < 0.99


def test_acting_leaves_no_trace_in_the_model():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, embedding_dropout=0.5).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    agent = model.agent(tokeniser, num_envs=1)
    assert not model.training  # so that nothing is dropped
    live(agent, Life(steps=10, streams=1))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


# ---- wrong use


@pytest.fixture
def agent() -> AlgorithmDistillationAgent:
    tokeniser = tiny_tokeniser()
    return tiny_model(tokeniser).agent(tokeniser, num_envs=2)


NOTHING = {"rewards": [0.0, 0.0], "terminations": [False, False], "truncations": [False, False]}


def test_acting_twice_is_refused_and_harmless(agent):
    agent.act([[0, 0], [1, 1]])
    with pytest.raises(RuntimeError, match=r"observe\("):
        agent.act([[0, 0], [1, 1]])
    assert agent.context_lengths.tolist() == [1, 1]
    agent.observe(**NOTHING)
    agent.act([[0, 0], [1, 1]])
    assert agent.context_lengths.tolist() == [2, 2]


def test_observing_before_acting_is_refused(agent):
    with pytest.raises(RuntimeError, match=r"act\("):
        agent.observe(**NOTHING)
    agent.act([[0, 0], [1, 1]])
    agent.observe(**NOTHING)
    with pytest.raises(RuntimeError, match=r"act\("):
        agent.observe(**NOTHING)


@pytest.mark.parametrize(
    ("observations", "named"),
    [
        ([[0, 0]], r"\(1, 2\)"),
        ([[0, 0]] * 3, r"\(3, 2\)"),
        ([0, 0], r"\(2,\)"),
        ([[0, 0, 0]] * 2, r"\(2, 3\)"),
        ([[0, 0], [6, 0]], r"\[6, 0\]"),
        ([[0, -1], [0, 0]], r"\[0, -1\]"),
        ([[0.0, 0.0], [0.0, 0.0]], "float64"),
        (3, "observations"),
    ],
)
def test_wrong_observations_are_refused_and_harmless(agent, observations, named):
    with pytest.raises(ValueError, match=named):
        agent.act(observations)
    assert agent.context_lengths.tolist() == [0, 0]
    agent.act([[0, 0], [1, 1]])
    assert agent.context_lengths.tolist() == [1, 1]


@pytest.mark.parametrize("name", ["rewards", "terminations", "truncations"])
@pytest.mark.parametrize("value", [[0.0], [0.0] * 3, [[0.0], [0.0]], 0.0])
def test_wrong_shapes_of_what_was_observed_are_refused(agent, name, value):
    agent.act([[0, 0], [1, 1]])
    with pytest.raises(ValueError, match=rf"{name} have the shape .*expected \(2,\)"):
        agent.observe(**{**NOTHING, name: value})
    agent.observe(**NOTHING)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"action_selection": "best"}, "'best'.*'sample'.*'greedy'"),
        ({"autoreset_mode": "disabled"}, "'disabled'.*'same_step'.*'next_step'"),
        ({"context_length": 0}, "context_length=0"),
        ({"context_length": -1}, "context_length=-1"),
        ({"num_envs": 0}, "num_envs=0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, named):
    tokeniser = tiny_tokeniser()
    with pytest.raises(ValueError, match=named):
        tiny_model(tokeniser).agent(tokeniser, **{"num_envs": 2, **arguments})


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (tiny_tokeniser(observation_space=MultiDiscrete([6, 5])), r"observation_sizes is \[6, 5\].*\[6, 4\]"),
        (tiny_tokeniser(action_space=Discrete(4)), r"action_sizes is \[4\].*\[3\]"),
        (tiny_tokeniser(layout="interleaved"), "layout is 'interleaved'.*'transition'"),
        (tiny_tokeniser(return_conditioned=True), "return_conditioned is True.*False"),
    ],
)
def test_the_tokeniser_of_another_model_is_refused(other, named):
    with pytest.raises(ValueError, match=named):
        tiny_model(tiny_tokeniser()).agent(other, num_envs=2)


@pytest.mark.parametrize(
    "mask", [[True], [True] * 3, [1, 0], [[True, False]], True], ids=["short", "long", "numbers", "nested", "scalar"]
)
def test_a_wrong_mask_is_refused(agent, mask):
    with pytest.raises(ValueError, match="mask .*2 booleans"):
        agent.reset(mask)


def empty_window() -> dict[str, np.ndarray]:
    return {name: np.asarray(values)[:0] for name, values in random_window(2, 0).items() if np.ndim(values)}


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ([random_window(2, 0)], "1 prompts.*2 streams"),
        ([random_window(2, 0)] * 3, "3 prompts.*2 streams"),
        ({**random_window(2, 0), "observations": np.array([[6, 0], [0, 0]])}, r"\[6, 0\]"),
        ({**random_window(2, 0), "actions": np.array([0, 3])}, "3"),
        ({**random_window(2, 0), "rewards": np.zeros(3)}, "rewards|observations"),
        (empty_window(), "step"),
    ],
    ids=["too few", "too many", "observation", "action", "lengths", "empty"],
)
def test_a_wrong_prompt_is_refused_and_leaves_the_contexts_alone(agent, prompt, named):
    agent.act([[0, 0], [1, 1]])
    agent.observe(**NOTHING)
    with pytest.raises(ValueError, match=named):
        agent.reset(prompt=prompt)
    assert agent.context_lengths.tolist() == [1, 1]


def test_agents_of_one_model_do_not_influence_each_other():
    # Two agents of one model and tokeniser at once.
    tokeniser = tiny_tokeniser(action_space=ACTION_SPACE)
    model = tiny_model(tokeniser)
    lives = Life(steps=12, streams=1, seed=1), Life(steps=12, streams=1, seed=2)
    apart = [live(model.agent(tokeniser, 1, seed=3), life).tolist() for life in lives]
    agents = [model.agent(tokeniser, 1, seed=3) for _ in lives]
    mixed = [[], []]
    for step in range(12):
        for agent, life, actions in zip(agents, lives, mixed, strict=True):
            actions.extend(live(agent, life, range(step, step + 1)).tolist())
    assert mixed == apart
