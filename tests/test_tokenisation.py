import json
import re

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Discrete, MultiBinary, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import one_hot_logits, random_elements, random_window, slice_window, space_dimensions, tiny_tokeniser
from transformers import AutoFeatureExtractor, AutoProcessor

import algodistill  # noqa: F401  (registers the tokeniser with the Auto classes)
from algodistill.histories.schema import history_features
from algodistill.models import HistoryTokeniser


SPACES = {
    "discrete": Discrete(5),
    "discrete-from-3": Discrete(4, start=3),
    "discrete-from-minus-2": Discrete(4, start=-2),
    "multidiscrete": MultiDiscrete([3, 5, 2]),
    "multidiscrete-with-start": MultiDiscrete([3, 4], start=[2, -7]),
    "multidiscrete-of-one": MultiDiscrete([4]),
    "multibinary": MultiBinary(3),
    "multibinary-of-one": MultiBinary(1),
    "multidiscrete-2d": MultiDiscrete([[2, 3], [4, 2]], start=[[0, 1], [2, -3]]),
    "multibinary-2d": MultiBinary([2, 2]),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@st.composite
def discrete_spaces(draw: st.DrawFn) -> gymnasium.Space:
    kind = draw(st.sampled_from(["discrete", "multidiscrete", "multibinary"]))
    if kind == "multibinary":
        return MultiBinary(draw(st.integers(1, 5)))
    starts = st.integers(-50, 50)
    if kind == "discrete":
        return Discrete(draw(st.integers(1, 9)), start=draw(starts))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    return MultiDiscrete(sizes, start=draw(st.lists(starts, min_size=len(sizes), max_size=len(sizes))))


def encode_actions(tokeniser: HistoryTokeniser, actions: np.ndarray) -> torch.Tensor:
    """Ids of previous actions, `(steps, dimensions)`."""
    steps = len(actions)
    none, zeros = np.zeros(steps, dtype=bool), np.zeros(steps)
    observations = random_elements(Discrete(2), (steps,), np.random.default_rng(0))
    return tokeniser.encode_steps(observations, actions, zeros, none, none)["previous_actions"]


@settings(max_examples=60, deadline=None)
@given(space=discrete_spaces(), seed=st.integers(0, 2**32 - 1), history_start=st.booleans())
def test_labels_decode_back_to_the_actions(space, seed, history_start):
    tokeniser = HistoryTokeniser(Discrete(2), space)
    window = random_window(6, seed, Discrete(2), space, history_start=history_start)
    labels = tokeniser([window])["labels"][0]
    assert labels.shape == (6, space_dimensions(space)) and labels.dtype == torch.int64
    logits = torch.stack([one_hot_logits(step.tolist(), tokeniser.action_sizes) for step in labels])
    for uniforms in (None, torch.full(labels.shape, 0.5, dtype=torch.float64)):
        decoded = tokeniser.decode(logits, uniforms)
        np.testing.assert_array_equal(decoded, window["actions"])
        assert all(space.contains(action) for action in decoded)


@settings(max_examples=60, deadline=None)
@given(observation_space=discrete_spaces(), action_space=discrete_spaces(), seed=st.integers(0, 2**32 - 1))
def test_ids_lie_inside_the_embedding_tables(observation_space, action_space, seed):
    tokeniser = HistoryTokeniser(observation_space, action_space)
    windows = [
        random_window(5, seed, observation_space, action_space),
        random_window(5, seed + 1, observation_space, action_space, history_start=False),
    ]
    batch = tokeniser(windows)
    assert batch["observations"].shape == (2, 5, space_dimensions(observation_space))
    assert batch["previous_actions"].shape == (2, 5, space_dimensions(action_space))
    sizes = tokeniser.action_sizes
    for ids, table in (
        (batch["observations"], sum(tokeniser.observation_sizes)),
        (batch["previous_actions"], sum(sizes) + len(sizes)),
    ):
        assert ids.dtype == torch.int64
        assert ids.min() >= 0 and ids.max() < table
    assert (batch["labels"] >= 0).all() and (batch["labels"] < torch.tensor(sizes)).all()


@every_space
def test_distinct_values_of_distinct_dimensions_have_distinct_ids(space):
    rng = np.random.default_rng(0)
    steps = 400  # enough to see every value of these small spaces
    values = random_elements(space, (steps,), rng)
    columns = values.reshape(steps, -1)
    seen = {(dimension, int(value)) for row in columns for dimension, value in enumerate(row)}

    tokeniser = HistoryTokeniser(space, space)
    zeros, none = np.zeros(steps), np.zeros(steps, dtype=bool)
    encoded = tokeniser.encode_steps(values, values, zeros, none, none)
    for ids in (encoded["observations"], encoded["previous_actions"]):
        meanings = {}
        for row, id_row in zip(columns, ids.tolist(), strict=True):
            for dimension, (value, number) in enumerate(zip(row.tolist(), id_row, strict=True)):
                meanings.setdefault(number, set()).add((dimension, value))
        assert all(len(meaning) == 1 for meaning in meanings.values())
        assert len(meanings) == len(seen) == sum(tokeniser.action_sizes)


@every_space
def test_no_action_has_an_id_that_no_action_shares(space):
    tokeniser = HistoryTokeniser(Discrete(2), space)
    actions = random_elements(space, (400,), np.random.default_rng(0))
    ids = encode_actions(tokeniser, actions)
    no_action = tokeniser([random_window(1, 0, Discrete(2), space)])["previous_actions"][0, 0]
    assert no_action.shape == (space_dimensions(space),)
    assert len(set(no_action.tolist())) == len(no_action)
    assert not set(no_action.tolist()) & set(ids.flatten().tolist())


@every_space
def test_a_history_starts_with_no_action_and_no_reward(space):
    tokeniser = HistoryTokeniser(space, space)
    window = random_window(4, 1, space, space)
    batch = tokeniser([window])
    # What the window says came before its history is passed over, whatever it is.
    other = tokeniser([{**window, "previous_action": window["actions"][1], "previous_reward": 7.0}])
    unsaid = tokeniser([{name: window[name] for name in ("observations", "actions", "rewards", "episode_starts")}])
    later = encode_actions_in(tokeniser, window)
    for encoded in (batch, other, unsaid):
        assert encoded["previous_rewards"][0, 0] == 0
        assert not torch.equal(encoded["previous_actions"][0, 0], later[0])
        torch.testing.assert_close(encoded["previous_actions"], batch["previous_actions"], rtol=0, atol=0)


def encode_actions_in(tokeniser: HistoryTokeniser, window: dict) -> torch.Tensor:
    """Ids of a window's own actions as previous actions, `(steps, dimensions)`."""
    steps = len(window["actions"])
    none = np.zeros(steps, dtype=bool)
    encoded = tokeniser.encode_steps(window["observations"], window["actions"], np.zeros(steps), none, none)
    return encoded["previous_actions"]


@every_space
@pytest.mark.parametrize("history_start", [True, False])
def test_previous_actions_and_rewards_are_shifted_by_one(space, history_start):
    tokeniser = HistoryTokeniser(Discrete(6), space)
    window = random_window(7, 2, Discrete(6), space, history_start=history_start)
    batch = tokeniser([window])
    own = encode_actions_in(tokeniser, window)
    torch.testing.assert_close(batch["previous_actions"][0, 1:], own[:-1], rtol=0, atol=0)
    np.testing.assert_array_equal(batch["previous_rewards"][0, 1:].numpy(), window["rewards"][:-1])
    np.testing.assert_array_equal(batch["observations"][0, :, 0].numpy(), window["observations"])
    np.testing.assert_array_equal(batch["episode_starts"][0].numpy(), window["episode_starts"])
    assert batch["previous_rewards"].dtype == torch.float32
    assert batch["episode_starts"].dtype == torch.int64


@every_space
def test_a_window_inside_a_history_carries_the_real_previous_action_and_reward(space):
    tokeniser = HistoryTokeniser(Discrete(6), space)
    whole = random_window(9, 3, Discrete(6), space)
    inside = tokeniser([slice_window(whole, 4, 9)])
    for name, values in tokeniser([whole]).items():
        torch.testing.assert_close(inside[name][0], values[0, 4:], rtol=0, atol=0)
    assert inside["previous_rewards"][0, 0] == whole["rewards"][3]


def test_windows_of_different_lengths_are_padded_on_the_right():
    tokeniser = tiny_tokeniser()
    windows = [random_window(steps, steps) for steps in (5, 1, 3)]
    batch = tokeniser(windows)
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "observations": (3, 5, 2),
        "previous_actions": (3, 5, 1),
        "previous_rewards": (3, 5),
        "episode_starts": (3, 5),
        "attention_mask": (3, 5),
        "labels": (3, 5, 1),
    }
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]
    padding = batch["attention_mask"] == 0
    assert (batch["labels"][padding] == -100).all() and (batch["labels"][~padding] >= 0).all()
    for index, window in enumerate(windows):
        alone = tokeniser(window)
        assert "attention_mask" not in alone
        for name, values in alone.items():
            torch.testing.assert_close(batch[name][index, : values.shape[1]], values[0], rtol=0, atol=0)


def test_windows_of_one_length_need_no_attention_mask():
    batch = tiny_tokeniser()([random_window(4, 0), random_window(4, 1)])
    assert "attention_mask" not in batch and "token_mask" not in batch
    assert (batch["labels"] != -100).all()


@pytest.mark.parametrize("probability", [0.05, 0.3, 0.9])
def test_about_the_asked_share_of_every_part_is_masked(probability):
    windows = [random_window(300, seed) for seed in range(20)]
    mask = tiny_tokeniser()(windows, token_masking=probability)["token_mask"]
    assert mask.shape == (20, 300, 3) and mask.dtype == torch.bool
    # Five standard deviations of a mean of 6000 draws.
    tolerance = 5 * (probability * (1 - probability) / 6000) ** 0.5
    assert (mask.float().mean(dim=(0, 1)) - probability).abs().max() < tolerance
    # The parts are drawn one by one, not a step at a time.
    together = mask.all(dim=-1).float().mean()
    assert abs(together - probability**3) < 5 * (probability**3 * (1 - probability**3) / 6000) ** 0.5


def test_token_masks_come_from_the_windows_own_seeds():
    tokeniser = tiny_tokeniser()
    windows = [random_window(steps, seed) for seed, steps in enumerate((6, 9, 4))]
    masks = tokeniser(windows, token_masking=0.5)["token_mask"]
    torch.testing.assert_close(masks, tokeniser(windows, token_masking=0.5)["token_mask"], rtol=0, atol=0)
    # Neither the company of other windows nor their order or length plays a part.
    for index, window in enumerate(windows):
        alone = tokeniser([window], token_masking=0.5)["token_mask"][0]
        torch.testing.assert_close(masks[index, : len(alone)], alone, rtol=0, atol=0)
    turned = tokeniser(windows[::-1], token_masking=0.5)["token_mask"]
    torch.testing.assert_close(turned, masks.flip(0), rtol=0, atol=0)
    assert not torch.equal(masks[0, :4], masks[1, :4])
    reseeded = tokeniser([{**windows[0], "seed": np.int64(99)}], token_masking=0.5)["token_mask"]
    assert not torch.equal(reseeded[0], masks[0, :6])


def test_token_masking_does_not_touch_the_global_random_state():
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    tiny_tokeniser()([random_window(6, 0)], token_masking=0.5)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])


def test_uniforms_choose_actions_by_their_probability():
    tokeniser = HistoryTokeniser(Discrete(2), MultiDiscrete([3, 4]))
    draws = 20_000
    logits = torch.tensor([0.3, -1.0, 1.2, 2.0, 0.0, -0.5, 0.7])
    uniforms = torch.rand(draws, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    actions = tokeniser.decode(logits.expand(draws, -1), uniforms)
    # 0.001 quantiles of chi-square with 2 and 3 degrees of freedom.
    for dimension, (part, limit) in enumerate(zip(logits.split([3, 4]), (13.8, 16.3), strict=True)):
        expected = part.softmax(dim=-1).numpy() * draws
        counts = np.bincount(actions[:, dimension], minlength=len(part))
        assert ((counts - expected) ** 2 / expected).sum() < limit
    # Each dimension follows its own column of uniforms.
    turned = tokeniser.decode(logits.expand(draws, -1), torch.stack([uniforms[:, 0], 1 - uniforms[:, 1]], dim=1))
    np.testing.assert_array_equal(turned[:, 0], actions[:, 0])
    assert (turned[:, 1] != actions[:, 1]).mean() > 0.2


@pytest.mark.parametrize(
    ("uniform", "action"),
    [(0.0, 0), (0.0999, 0), (0.1001, 1), (0.2999, 1), (0.3001, 2), (0.9999, 2), (1 - 2**-53, 2)],
)
def test_a_uniform_picks_the_action_whose_share_it_falls_into(uniform, action):
    logits = torch.tensor([[0.1, 0.2, 0.7]]).log()
    chosen = HistoryTokeniser(Discrete(2), Discrete(3)).decode(logits, torch.tensor([[uniform]], dtype=torch.float64))
    assert chosen.tolist() == [action]


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("impossible", [0, 1, 2])
def test_impossible_actions_are_never_drawn(uniform, impossible):
    logits = torch.zeros(1, 3)
    logits[0, impossible] = -float("inf")
    chosen = HistoryTokeniser(Discrete(2), Discrete(3)).decode(logits, torch.tensor([[uniform]], dtype=torch.float64))
    assert chosen[0] != impossible and 0 <= chosen[0] < 3


def test_without_uniforms_the_likeliest_action_is_taken():
    tokeniser = HistoryTokeniser(Discrete(2), MultiDiscrete([3, 2], start=[1, 5]))
    logits = torch.tensor([[0.1, 2.0, 0.3, 1.0, -1.0], [9.0, 2.0, 0.3, -4.0, -1.0]])
    assert tokeniser.decode(logits).tolist() == [[2, 5], [1, 6]]


ACTION_SPACES = {
    **SPACES,
    "discrete-int32": Discrete(3, dtype=np.int32),
    "discrete-int8-from-minus-1": Discrete(3, start=-1, dtype=np.int8),
    "multidiscrete-int32": MultiDiscrete([3, 2], dtype=np.int32),
    "multidiscrete-uint8": MultiDiscrete([3, 2], dtype=np.uint8),
}


@pytest.mark.parametrize("space", ACTION_SPACES.values(), ids=ACTION_SPACES)
@pytest.mark.parametrize("sample", [True, False], ids=["sample", "greedy"])
def test_decoded_actions_belong_to_the_environments_space(space, sample):
    tokeniser = HistoryTokeniser(Discrete(2), space)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, sum(tokeniser.action_sizes), generator=generator)
    dimensions = len(tokeniser.action_sizes)
    uniforms = torch.rand(50, dimensions, generator=generator, dtype=torch.float64) if sample else None
    actions = tokeniser.decode(logits, uniforms)
    assert isinstance(actions, np.ndarray)
    assert actions.shape == (50, *space.shape)
    assert actions.dtype == space.dtype
    assert all(space.contains(action) for action in actions)
    assert len(np.unique(actions, axis=0)) > 1


def test_half_precision_logits_decode_too():
    tokeniser = HistoryTokeniser(Discrete(2), Discrete(3))
    uniforms = torch.tensor([[0.999]], dtype=torch.float64)
    assert tokeniser.decode(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.bfloat16), uniforms).tolist() == [2]


WRONG_WINDOWS = {
    # name: (observation space, action space, change, what the message names)
    "observation too large": (
        Discrete(6),
        Discrete(3),
        {"observations": [0, 6, 1]},
        ["6", "Discrete", "observations"],
    ),
    "observation too small": (Discrete(6), Discrete(3), {"observations": [0, -1, 1]}, ["-1", "Discrete"]),
    "observation before start": (Discrete(6, start=4), Discrete(3), {"observations": [4, 3, 9]}, ["3", "Discrete"]),
    "observation outside one dimension": (
        MultiDiscrete([6, 4]),
        Discrete(3),
        {"observations": [[5, 3], [3, 5], [0, 0]]},
        ["[3, 5]", "MultiDiscrete"],
    ),
    "observation not binary": (MultiBinary(2), Discrete(3), {"observations": [[0, 1], [0, 2], [0, 0]]}, ["[0, 2]"]),
    "observation of floats": (Discrete(6), Discrete(3), {"observations": [0.0, 1.0, 2.0]}, ["float64", "Discrete"]),
    "observation with an axis too many": (
        Discrete(6),
        Discrete(3),
        {"observations": [[0], [1], [2]]},
        ["(3, 1)", "Discrete"],
    ),
    "observation too wide": (
        MultiDiscrete([6, 4]),
        Discrete(3),
        {"observations": [[0, 0, 0]] * 3},
        ["(3, 3)", "MultiDiscrete"],
    ),
    "action too large": (Discrete(6), Discrete(3), {"actions": [0, 1, 3]}, ["3", "Discrete", "actions"]),
    "action of floats": (Discrete(6), Discrete(3), {"actions": [0.5, 1.0, 2.0]}, ["float64", "Discrete"]),
    "action too wide": (Discrete(6), MultiDiscrete([3, 3]), {"actions": [[0, 0, 0]] * 3}, ["(3, 3)", "MultiDiscrete"]),
    "previous action outside": (
        Discrete(6),
        Discrete(3),
        {"previous_action": 7, "previous_reward": 0.0, "history_start": False},
        ["7", "Discrete"],
    ),
    "fewer observations than rewards": (Discrete(6), Discrete(3), {"observations": [0, 1]}, ["observations", "2"]),
    "fewer actions than rewards": (Discrete(6), Discrete(3), {"actions": [0, 1]}, ["actions"]),
    "fewer episode starts than rewards": (Discrete(6), Discrete(3), {"episode_starts": [True]}, ["episode_starts"]),
    "no step at all": (
        Discrete(6),
        Discrete(3),
        {
            "observations": np.zeros(0, int),
            "actions": np.zeros(0, int),
            "rewards": np.zeros(0),
            "episode_starts": np.zeros(0, bool),
        },
        ["step"],
    ),
}


@pytest.mark.parametrize(
    ("observation_space", "action_space", "change", "names"), WRONG_WINDOWS.values(), ids=WRONG_WINDOWS
)
def test_windows_that_do_not_fit_the_spaces_are_refused(observation_space, action_space, change, names):
    tokeniser = HistoryTokeniser(observation_space, action_space)
    window = random_window(3, 0, observation_space, action_space)
    tokeniser([window])  # fits before the change
    changed = {**window, **{name: np.asarray(values) for name, values in change.items()}}
    with pytest.raises(ValueError) as error:
        tokeniser([changed])
    for name in names:
        assert name in str(error.value)


TEXT = spaces.Text(5)
UNSUPPORTED_SPACES = {
    # name: (space, what the message names beside it)
    "Text": (TEXT, "MultiDiscrete"),
    "Sequence": (spaces.Sequence(Discrete(3)), "MultiDiscrete"),
    "Graph": (spaces.Graph(Discrete(3), None), "MultiDiscrete"),
    "Dict with a Text": (spaces.Dict({"a": Discrete(3), "b": spaces.Tuple([Discrete(2), TEXT])}), "'b.1' is Text"),
    "empty Dict": (spaces.Dict({}), "no part"),
    "empty Tuple inside": (spaces.Dict({"a": spaces.Tuple([])}), "'a' is Tuple.*no part"),
    "name with a dot": (spaces.Dict({"a.b": Discrete(2)}), r"'a\.b'.*without '\.'"),
    "Box of nothing": (spaces.Box(0, 1, (3, 0)), "no number"),
}
UNSUPPORTED_ACTION_SPACES = {
    **UNSUPPORTED_SPACES,
    "Dict": (spaces.Dict({"position": Discrete(3)}), "bounded Box"),
    "Tuple": (spaces.Tuple([Discrete(3), Discrete(2)]), "bounded Box"),
    "Box without bounds": (spaces.Box(-np.inf, np.inf, (3,)), "finite"),
    "Box with one bound": (spaces.Box(np.array([0, -np.inf]), np.array([np.inf, 1.0])), "finite"),
}


@pytest.mark.parametrize(("space", "named"), UNSUPPORTED_SPACES.values(), ids=UNSUPPORTED_SPACES)
def test_observation_spaces_that_cannot_be_tokenised_are_refused(space, named):
    for refuses in (lambda: HistoryTokeniser(space, Discrete(2)), lambda: history_features(space, Discrete(2))):
        with pytest.raises(ValueError, match=f"{re.escape(str(space))}.*{named}"):
            refuses()


@pytest.mark.parametrize(("space", "named"), UNSUPPORTED_ACTION_SPACES.values(), ids=UNSUPPORTED_ACTION_SPACES)
def test_action_spaces_that_cannot_be_tokenised_are_refused(space, named):
    for refuses in (lambda: HistoryTokeniser(Discrete(2), space), lambda: history_features(Discrete(2), space)):
        with pytest.raises(ValueError, match=f"{re.escape(str(space))}.*{named}"):
            refuses()


@every_space
def test_a_tokeniser_knows_its_own_spaces_from_others(space):
    tokeniser = HistoryTokeniser(space, Discrete(3))
    tokeniser.check_spaces(space, Discrete(3))
    with pytest.raises(ValueError, match="observation space.*77"):
        tokeniser.check_spaces(Discrete(77), Discrete(3))
    with pytest.raises(ValueError, match="action space.*77"):
        tokeniser.check_spaces(space, Discrete(77))


@every_space
@pytest.mark.parametrize("auto_class", [AutoProcessor, AutoFeatureExtractor, HistoryTokeniser])
def test_a_saved_tokeniser_comes_back_whole(space, auto_class, tmp_path):
    tokeniser = HistoryTokeniser(space, space, layout="interleaved")
    tokeniser.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["layout"] == "interleaved"
    assert (tmp_path / "tokenisation_algodistill.py").is_file()

    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is HistoryTokeniser
    assert (loaded.layout, loaded.observation_space, loaded.action_space) == (
        "interleaved",
        tokeniser.observation_space,
        tokeniser.action_space,
    )
    assert (loaded.observation_sizes, loaded.action_sizes) == (tokeniser.observation_sizes, tokeniser.action_sizes)
    loaded.check_spaces(space, space)
    window = random_window(4, 0, space, space, history_start=False)
    expected, found = tokeniser(window, token_masking=0.5), loaded(window, token_masking=0.5)
    assert set(found) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)


def test_saving_a_loaded_tokeniser_again_changes_nothing(tmp_path):
    tiny_tokeniser().save_pretrained(tmp_path / "first")
    AutoProcessor.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / folder / "preprocessor_config.json").read_text() for folder in ("first", "second"))
    assert json.loads(second) == json.loads(first)
    assert json.loads(first)["auto_map"]


# ---- what is still to come of a return


def conditioned_tokeniser(**settings) -> HistoryTokeniser:
    return tiny_tokeniser(return_conditioned=True, **settings)


def fitted_history(**columns) -> dict:
    return {"observations": np.zeros((2, 2), int), "rewards": np.array([0.5, -0.5]), **columns}


@pytest.mark.parametrize(
    ("histories", "expected"),
    [
        ([{"episode_returns": [1.0, 4.0]}, {"episode_returns": [2.5]}], 4.0),
        ([{"episode_returns": [-1600.0, -200.0]}], 1600.0),  # whatever its sign
        ([{"episode_returns": []}, {"episode_returns": [0.5]}], 0.5),
        ([{"episode_returns": [0.0, 0.0]}], 1.0),
        ([{"returns_to_go": [3.0, -7.0]}, {"returns_to_go": [5.0, 0.0]}], 7.0),
        ([{"episode_returns": [2.0], "returns_to_go": [9.0]}], 2.0),
    ],
    ids=["several", "negative", "unfinished", "nothing paid", "windows", "both"],
)
def test_returns_are_divided_by_the_largest(histories, expected):
    tokeniser = conditioned_tokeniser().fit([fitted_history(**history) for history in histories])
    assert tokeniser.return_scale == expected
    assert tokeniser.reward_scale == 1.0
    batch = tokeniser([{**random_window(3, 0), "returns_to_go": [1.0, -2.0, 0.0]}])
    np.testing.assert_allclose(batch["returns_to_go"], [[1 / expected, -2 / expected, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({}, "neither episode_returns nor returns_to_go"),
        ({"episode_returns": [1.0, np.nan]}, "episode_returns hold values that are not finite"),
        ({"returns_to_go": [np.inf, 1.0]}, "returns_to_go hold values that are not finite"),
    ],
)
def test_histories_without_returns_cannot_be_fitted_to_where_these_are_read(columns, named):
    with pytest.raises(ValueError, match=named):
        conditioned_tokeniser().fit([fitted_history(**columns)])
    # Whoever does not read them does not care.
    assert tiny_tokeniser().fit([fitted_history(**columns)]).return_scale == 1.0


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(scale):
    with pytest.raises(ValueError, match=f"return_scale={scale}"):
        conditioned_tokeniser(return_scale=scale)


@pytest.mark.parametrize(
    ("returns", "named"),
    [
        (None, "returns_to_go is missing.*returns_to_go=True"),
        ([1.0, 2.0], r"returns_to_go have the shape \(2,\): expected \(3,\)"),
        ([[1.0], [2.0], [3.0]], r"returns_to_go have the shape \(3, 1\): expected \(3,\)"),
        (1.0, r"returns_to_go have the shape \(\): expected \(3,\)"),
        ([1.0, np.nan, 3.0], "returns_to_go hold values that are not finite numbers"),
        ([1.0, -np.inf, 3.0], "returns_to_go hold values that are not finite numbers"),
    ],
    ids=["missing", "short", "nested", "scalar", "nan", "infinite"],
)
def test_returns_that_do_not_fit_are_refused(returns, named):
    tokeniser, window = conditioned_tokeniser(), random_window(3, 0)
    given = window if returns is None else {**window, "returns_to_go": returns}
    with pytest.raises(ValueError, match=named):
        tokeniser([given])
    with pytest.raises(ValueError, match=named):
        tokeniser.encode_steps(
            *(window[name] for name in ("observations", "actions", "rewards", "episode_starts")), [False] * 3, returns
        )


def test_returns_to_come_stand_beside_each_step_and_are_padded_with_zeros():
    tokeniser = conditioned_tokeniser(return_scale=4.0)
    windows = [random_window(steps, steps, returns_to_go=True) for steps in (5, 1, 3)]
    batch = tokeniser(windows)
    assert batch["returns_to_go"].shape == (3, 5) and batch["returns_to_go"].dtype == torch.float32
    for row, window in zip(batch["returns_to_go"], windows, strict=True):
        steps = len(window["rewards"])
        np.testing.assert_array_equal(row[:steps], window["returns_to_go"] / 4)
        assert not row[steps:].any()
    # They are those of the step itself, not of the one before as rewards are.
    whole, inside = windows[0], slice_window(windows[0], 2, 5)
    torch.testing.assert_close(tokeniser(inside)["returns_to_go"][0], tokeniser(whole)["returns_to_go"][0, 2:])
    leading = tokeniser.encode_steps(
        *(np.stack([window[name][:1] for window in windows]) for name in ("observations", "actions", "rewards")),
        *(np.zeros((3, 1), bool) for _ in range(2)),
        np.arange(3)[:, None],
    )
    assert leading["returns_to_go"].tolist() == [[0.0], [0.25], [0.5]]


def test_whoever_does_not_read_returns_encodes_as_if_there_were_none():
    tokeniser, window = tiny_tokeniser(), random_window(6, 0, returns_to_go=True)
    bare = {name: values for name, values in window.items() if name != "returns_to_go"}
    found, expected = tokeniser(window, token_masking=0.5), tokeniser(bare, token_masking=0.5)
    # Read as well, they change nothing else.
    conditioned = conditioned_tokeniser()(window, token_masking=0.5)
    names = {"observations", "previous_actions", "previous_rewards", "episode_starts", "labels", "token_mask"}
    assert set(found) == set(expected) == names == set(conditioned) - {"returns_to_go"}
    for name in names:
        for other in (found, conditioned):
            assert other[name].numpy().tobytes() == expected[name].numpy().tobytes()


@pytest.mark.parametrize("auto_class", [AutoProcessor, AutoFeatureExtractor, HistoryTokeniser])
def test_a_tokeniser_that_reads_returns_comes_back_whole(auto_class, tmp_path):
    tokeniser = conditioned_tokeniser().fit([fitted_history(episode_returns=[12.5])])
    tokeniser.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path)
    assert (loaded.return_conditioned, loaded.return_scale) == (True, 12.5)
    window = random_window(4, 0, returns_to_go=True)
    torch.testing.assert_close(loaded(window)["returns_to_go"], tokeniser(window)["returns_to_go"], rtol=0, atol=0)


def test_a_tokeniser_saved_before_there_were_returns_reads_none(tmp_path):
    tokeniser = tiny_tokeniser()
    tokeniser.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    saved = json.loads(file.read_text())
    assert saved.pop("return_conditioned") is False and saved.pop("return_scale") == 1.0
    file.write_text(json.dumps(saved))
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert (loaded.return_conditioned, loaded.return_scale) == (False, 1.0)
    window = random_window(4, 0)
    found, expected = loaded(window), tokeniser(window)
    assert set(found) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=0)
