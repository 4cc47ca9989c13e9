import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from tiny import DECODERS, random_window, tiny_model, tiny_tokeniser
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    DynamicCache,
    Qwen3Config,
    StaticCache,
)

import algodistill  # noqa: F401  (registers the model with the Auto classes)
from algodistill.models import AlgorithmDistillationConfig, AlgorithmDistillationModel, HistoryTokeniser


LAYOUTS = ("transition", "interleaved")
both_layouts = pytest.mark.parametrize("layout", LAYOUTS)
every_decoder = pytest.mark.parametrize("decoder", DECODERS)
# Every decoder with one token a step, and the default one with three.
every_decoder_and_layout = pytest.mark.parametrize(
    ("decoder", "layout"), [*((decoder, "transition") for decoder in DECODERS), ("qwen3", "interleaved")]
)
STEPS = 12


def encode(tokeniser: HistoryTokeniser, windows: list[dict], **kwargs) -> tuple[dict, torch.Tensor]:
    """The model's inputs, and the labels apart from them."""
    inputs = dict(tokeniser(windows, **kwargs))
    return inputs, inputs.pop("labels")


def steps_of(inputs: dict, start: int, stop: int) -> dict:
    return {name: values[:, start:stop] for name, values in inputs.items()}


def assert_equal(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@every_decoder_and_layout
def test_a_decoder_is_causal(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder)
    window = random_window(STEPS, 0)
    changed_step = 7
    # What is changed, how, and the first step whose logits may tell.
    changes = {
        "observations": ([5, 0], [0, 3], changed_step),
        "actions": (0, 2, changed_step + 1),
        "rewards": (-3.0, 3.0, changed_step + 1),
        "episode_starts": (False, True, changed_step),
    }
    for name, (before, after, first_affected) in changes.items():
        logits = []
        for value in (before, after):
            values = window[name].copy()
            values[changed_step] = value
            with torch.no_grad():
                logits.append(model(**encode(tokeniser, [{**window, name: values}])[0]).logits[0])
        difference = (logits[0] - logits[1]).abs().amax(dim=-1)
        assert difference[:first_affected].max() < 1e-5, name
        assert difference[first_affected] > 1e-3, name


@both_layouts
@pytest.mark.parametrize("part", ["observations", "previous_actions", "previous_rewards", "episode_starts"])
def test_the_last_step_is_read_before_its_action_is_predicted(layout, part):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0)])
    changed = {name: values.clone() for name, values in inputs.items()}
    changed[part][0, -1] = 1 - changed[part][0, -1] if part == "episode_starts" else changed[part][0, -1] + 1
    with torch.no_grad():
        difference = (model(**changed).logits - model(**inputs).logits).abs().amax(dim=-1)[0]
    assert difference[:-1].max() < 1e-5 and difference[-1] > 1e-3


@every_decoder_and_layout
def test_steps_read_one_after_the_other_give_the_logits_of_the_full_pass(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder)
    inputs, _ = encode(tokeniser, [random_window(STEPS, seed) for seed in range(3)])
    cache, logits = DynamicCache(config=model.config.get_text_config()), []
    with torch.no_grad():
        full = model(**inputs).logits
        for start, stop in ((0, 5), (5, 6), (6, 7), (7, 10), (10, STEPS)):
            output = model(**steps_of(inputs, start, stop), past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits)
    assert full.shape == (3, STEPS, 3)
    assert full.std(dim=1).min() > 0.1  # the steps differ, or equality would mean nothing
    assert_equal(torch.cat(logits, dim=1), full)


@both_layouts
def test_a_cache_holds_the_tokens_of_every_step(layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(5, 0)])
    with torch.no_grad():
        cache = model(**inputs, use_cache=True).past_key_values
        assert model(**inputs, use_cache=False).past_key_values is None
    assert cache.get_seq_length() == 5 * model.config.tokens_per_step == 5 * (1 if layout == "transition" else 3)


# A state-space decoder has no keys that a StaticCache could hold.
@pytest.mark.parametrize(
    ("decoder", "layout"),
    [*((decoder, "transition") for decoder in DECODERS if decoder != "mamba2"), ("qwen3", "interleaved")],
)
def test_a_static_cache_step_gives_the_logits_of_the_full_pass(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder)
    inputs, _ = encode(tokeniser, [random_window(STEPS, seed) for seed in range(2)])
    tokens = STEPS * model.config.tokens_per_step
    cache, logits = StaticCache(config=model.config.get_text_config(), max_cache_len=tokens), []
    with torch.no_grad():
        full = model(**inputs).logits
        for start, stop in ((0, 6), *((step, step + 1) for step in range(6, STEPS))):
            output = model(**steps_of(inputs, start, stop), past_key_values=cache, use_cache=True)
            logits.append(output.logits)
    assert_equal(torch.cat(logits, dim=1), full)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@both_layouts
def test_a_static_cache_step_compiles_into_one_graph(layout, backend):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(STEPS, seed) for seed in range(2)])
    tokens = STEPS * model.config.tokens_per_step
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    logits = {}
    with torch.no_grad():
        for name, step in (("eager", model), ("compiled", compiled)):
            cache = StaticCache(config=model.config.get_text_config(), max_cache_len=tokens)
            model(**steps_of(inputs, 0, 8), past_key_values=cache, use_cache=True)
            logits[name] = torch.cat(
                [
                    step(**steps_of(inputs, index, index + 1), past_key_values=cache, use_cache=True).logits
                    for index in range(8, STEPS)
                ],
                dim=1,
            )
        full = model(**inputs).logits[:, 8:]
    torch.compiler.reset()
    assert_equal(logits["compiled"], logits["eager"])
    assert_equal(logits["compiled"], full)


@every_decoder_and_layout
def test_a_padded_batch_gives_the_logits_and_the_loss_of_its_windows(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder)
    windows = [random_window(STEPS, 0), random_window(7, 1, history_start=False), random_window(1, 2)]
    inputs, labels = encode(tokeniser, windows)
    assert "attention_mask" in inputs
    with torch.no_grad():
        output = model(**inputs, labels=labels)
        total = 0.0
        for index, window in enumerate(windows):
            alone = model(**tokeniser([window]))
            steps = len(window["rewards"])
            assert_equal(output.logits[index, :steps], alone.logits[0])
            total += alone.loss * steps
    assert_equal(output.loss, total / (STEPS + 7 + 1), 1e-5)


@pytest.mark.parametrize(
    ("decoder", "layout", "return_conditioned"),
    [
        *((decoder, "transition", False) for decoder in DECODERS),
        *(("qwen3", layout, True) for layout in LAYOUTS),
    ],
)
@pytest.mark.parametrize("token_masking", [0.0, 0.3])
def test_a_backward_pass_reaches_every_trainable_parameter(decoder, layout, return_conditioned, token_masking):
    tokeniser = tiny_tokeniser(layout=layout, return_conditioned=return_conditioned)
    model = tiny_model(tokeniser, decoder, token_masking=token_masking).train()
    assert ("embedding.return_to_go.weight" in dict(model.named_parameters())) == return_conditioned
    windows = [random_window(STEPS, seed, returns_to_go=return_conditioned) for seed in range(4)]
    model(**tokeniser(windows, token_masking=token_masking)).loss.backward()
    # One without a gradient makes DistributedDataParallel wait for it in vain.
    without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []
    unmoved = [name for name, value in model.named_parameters() if value.requires_grad and not value.grad.any()]
    assert unmoved == []


@both_layouts
def test_the_interleaved_layout_passes_gradients_to_every_part(layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, token_masking=0.3).train()
    model(**tokeniser([random_window(STEPS, seed) for seed in range(4)], token_masking=0.3)).loss.backward()
    for name, value in model.embedding.named_parameters():
        assert value.grad is not None and value.grad.any(), name


def test_eager_and_sdpa_attention_agree():
    for layout in LAYOUTS:
        tokeniser = tiny_tokeniser(layout=layout)
        model = tiny_model(tokeniser)
        inputs, labels = encode(tokeniser, [random_window(STEPS, 0), random_window(5, 1)])
        outputs = {}
        for attention in ("eager", "sdpa"):
            model.set_attn_implementation(attention)
            assert model.decoder.config._attn_implementation == attention
            with torch.no_grad():
                outputs[attention] = model(**inputs, labels=labels)
        steps = inputs["attention_mask"].bool()
        assert_equal(outputs["eager"].logits[steps], outputs["sdpa"].logits[steps])
        assert_equal(outputs["eager"].loss, outputs["sdpa"].loss)


@both_layouts
@pytest.mark.parametrize("decoder", ["qwen3", "gpt2", "falcon_h1"])
def test_activation_checkpointing_leaves_the_gradients_as_they_are(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout)
    batch = tokeniser([random_window(STEPS, seed) for seed in range(2)])
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(tokeniser, decoder).train()
        calls = []
        layer = model.decoder.h[0] if decoder == "gpt2" else model.decoder.layers[0]
        innermost = next(module for module in layer.modules() if not list(module.children()))
        innermost.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model(**batch).loss.backward()
        # A layer that is checkpointed is run a second time on the way back.
        assert len(calls) == 1 + checkpointing
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        assert_equal(gradients[1][name], gradient)


# ---- what is still to come of a return


@every_decoder_and_layout
def test_what_is_to_come_of_a_return_shows_from_its_step_on_and_not_before(decoder, layout):
    tokeniser = tiny_tokeniser(layout=layout, return_conditioned=True)
    model = tiny_model(tokeniser, decoder)
    window = random_window(STEPS, 0, returns_to_go=True)
    logits = []
    for value in (-3.0, 3.0):
        returns = window["returns_to_go"].copy()
        returns[7] = value
        with torch.no_grad():
            logits.append(model(**encode(tokeniser, [{**window, "returns_to_go": returns}])[0]).logits[0])
    difference = (logits[0] - logits[1]).abs().amax(dim=-1)
    assert difference[:7].max() < 1e-5
    assert difference[7] > 1e-3 and difference[8:].max() > 1e-4


@both_layouts
def test_steps_with_returns_read_one_after_the_other_give_the_logits_of_the_full_pass(layout):
    tokeniser = tiny_tokeniser(layout=layout, return_conditioned=True)
    model = tiny_model(tokeniser)
    windows = [random_window(steps, steps, returns_to_go=True) for steps in (STEPS, 7)]
    inputs, labels = encode(tokeniser, windows)
    cache, logits = DynamicCache(config=model.config.get_text_config()), []
    with torch.no_grad():
        whole, padded = (model(**encode(tokeniser, part)[0]).logits for part in (windows[:1], windows))
        assert_equal(padded[:1], whole)
        mask = inputs.pop("attention_mask")
        for step in range(STEPS):
            output = model(
                **steps_of(inputs, step, step + 1),
                attention_mask=mask[:, : step + 1],
                past_key_values=cache,
                use_cache=True,
            )
            logits.append(output.logits)
    assert_equal(torch.cat(logits, dim=1)[mask.bool()], padded[mask.bool()])


@both_layouts
def test_a_hidden_observation_hides_what_is_to_come_of_the_return_too(layout):
    tokeniser = tiny_tokeniser(layout=layout, return_conditioned=True)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0, returns_to_go=True)])
    changed = {**inputs, "returns_to_go": inputs["returns_to_go"].clone()}
    changed["returns_to_go"][0, 4] += 5
    for part, shows in enumerate((True, True, False)):
        mask = torch.zeros(1, STEPS, 3, dtype=torch.bool)
        mask[0, 4, part] = True
        with torch.no_grad():
            logits = [model(**values, token_mask=mask).logits for values in (inputs, changed)]
        assert ((logits[0] - logits[1]).abs().max() > 1e-3) == shows


@pytest.mark.parametrize(
    ("return_conditioned", "named"),
    [(True, "returns_to_go were not given: the model is conditioned"), (False, "were given: the model is not cond")],
)
def test_a_model_is_told_of_returns_if_and_only_if_it_reads_them(return_conditioned, named):
    tokeniser = tiny_tokeniser(return_conditioned=return_conditioned)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0, returns_to_go=True)])
    model(**inputs)
    if return_conditioned:
        inputs.pop("returns_to_go")
    else:
        inputs["returns_to_go"] = torch.zeros(1, STEPS)
    with pytest.raises(ValueError, match=named):
        model(**inputs)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_returns_are_read_in_half_precision_too(precision):
    tokeniser = tiny_tokeniser(return_conditioned=True)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0, returns_to_go=True)])
    with torch.no_grad():
        expected, found = model(**inputs).logits, model.to(precision)(**inputs).logits
    assert found.dtype == precision
    assert_equal(found.float(), expected, 0.3)


# ---- the loss


def loss_by_hand(
    logits: np.ndarray, labels: np.ndarray, sizes: list[int], smoothing: float = 0.0
) -> tuple[float, int]:
    """Sum of the cross-entropies of all labels that are not -100, and their number."""
    total, count, offset = 0.0, 0, 0
    for dimension, size in enumerate(sizes):
        for scores, label in zip(logits.reshape(-1, sum(sizes)), labels[..., dimension].reshape(-1), strict=True):
            if label == -100:
                continue
            part = scores[offset : offset + size].astype(np.float64)
            log_probabilities = part - np.log(np.exp(part).sum())
            total -= (1 - smoothing) * log_probabilities[label] + smoothing * log_probabilities.mean()
            count += 1
        offset += size
    return total, count


ACTIONS = MultiDiscrete([3, 4, 2], start=[0, 5, -1])


@pytest.fixture(scope="module")
def several_dimensions():
    """A tokeniser of actions with three dimensions, and a padded batch."""
    tokeniser = tiny_tokeniser(action_space=ACTIONS)
    windows = [random_window(steps, steps, action_space=ACTIONS) for steps in (9, 4)]
    return tokeniser, *encode(tokeniser, windows)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("items", [None, 50, torch.tensor(50)], ids=["alone", "int", "tensor"])
def test_the_loss_is_the_mean_cross_entropy_of_all_labels(several_dimensions, training, smoothing, items):
    tokeniser, inputs, labels = several_dimensions
    model = tiny_model(tokeniser, label_smoothing=smoothing).train(training)
    output = model(**inputs, labels=labels, num_items_in_batch=items)
    assert output.logits.shape == (2, 9, 3 + 4 + 2)
    total, count = loss_by_hand(
        output.logits.detach().numpy(), labels.numpy(), [3, 4, 2], smoothing=smoothing if training else 0.0
    )
    assert count == (9 + 4) * 3
    expected = total / (count if items is None else 50)
    assert output.loss.shape == () and output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_labels_of_any_step_can_be_ignored(several_dimensions):
    tokeniser, inputs, labels = several_dimensions
    model = tiny_model(tokeniser)
    labels = labels.clone()
    labels[0, :3] = -100
    labels[0, 5, 1] = -100
    with torch.no_grad():
        output = model(**inputs, labels=labels)
    total, count = loss_by_hand(output.logits.numpy(), labels.numpy(), [3, 4, 2])
    assert count == (9 + 4) * 3 - 3 * 3 - 1
    assert output.loss.item() == pytest.approx(total / count, rel=1e-5)


def test_without_labels_there_is_no_loss(several_dimensions):
    tokeniser, inputs, _ = several_dimensions
    with torch.no_grad():
        assert tiny_model(tokeniser)(**inputs).loss is None


def test_only_the_last_steps_logits_are_computed_if_no_more_are_wanted(several_dimensions):
    tokeniser, inputs, _ = several_dimensions
    model = tiny_model(tokeniser)
    with torch.no_grad():
        full, last = model(**inputs).logits, model(**inputs, steps_to_keep=2).logits
    assert last.shape == (2, 2, 9)
    assert_equal(last, full[:, -2:], 1e-6)


def test_a_tuple_is_returned_on_request(several_dimensions):
    tokeniser, inputs, labels = several_dimensions
    model = tiny_model(tokeniser)
    with torch.no_grad():
        loss, logits = model(**inputs, labels=labels, use_cache=False, return_dict=False)
        output = model(**inputs, labels=labels, use_cache=False)
    assert_equal(loss, output.loss, 1e-6)
    assert_equal(logits, output.logits, 1e-6)


@both_layouts
def test_a_hidden_part_of_a_step_does_not_show(layout):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0)])
    for index, part in enumerate(("previous_actions", "previous_rewards", "observations")):
        mask = torch.zeros(1, STEPS, 3, dtype=torch.bool)
        mask[0, 4, index] = True
        changed = {name: values.clone() for name, values in inputs.items()}
        changed[part][0, 4] = changed[part][0, 3] if part != "previous_rewards" else 9.0
        with torch.no_grad():
            seen = model(**inputs).logits
            hidden, hidden_change = (model(**values, token_mask=mask).logits for values in (inputs, changed))
        assert_equal(hidden_change, hidden, 1e-6)
        assert (seen - hidden)[0, 4:].abs().max() > 1e-3
        assert_equal(hidden[0, :4], seen[0, :4], 1e-5)


def test_embedding_dropout_is_for_training_only():
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser, embedding_dropout=0.5)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0)])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
        model.train()
        assert (model(**inputs).logits - model(**inputs).logits).abs().max() > 1e-3


# ---- saving and loading


def act_and_live(model, tokeniser, steps: int = 11, **kwargs) -> np.ndarray:
    """Actions of two streams of a life of random observations and rewards, `(steps, 2)`."""
    rng = np.random.default_rng(5)
    agent = model.agent(tokeniser, num_envs=2, seed=3, **kwargs)
    actions = []
    for step in range(steps):
        actions.append(agent.act(rng.integers(0, [6, 4], (2, 2))))
        done = np.array([step % 4 == 3, step % 3 == 2])
        agent.observe(rng.normal(size=2), done, np.zeros(2, dtype=bool))
    return np.stack(actions)


def save(model: AlgorithmDistillationModel, tokeniser: HistoryTokeniser, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokeniser.save_pretrained(folder)
    return folder


@every_decoder_and_layout
def test_a_saved_model_comes_back_equal_without_running_remote_code(decoder, layout, tmp_path):
    tokeniser = tiny_tokeniser(layout=layout)
    model = tiny_model(tokeniser, decoder)
    folder = save(model, tokeniser, tmp_path)

    loaded = AutoModel.from_pretrained(folder)
    assert type(loaded) is AlgorithmDistillationModel
    assert type(AutoConfig.from_pretrained(folder)) is AlgorithmDistillationConfig
    loaded_tokeniser = AutoProcessor.from_pretrained(folder)
    assert type(loaded_tokeniser) is type(AutoFeatureExtractor.from_pretrained(folder)) is HistoryTokeniser
    # Buffers too: those that are not saved must be made anew.
    for kind in ("named_parameters", "named_buffers"):
        values, loaded_values = dict(getattr(model, kind)()), dict(getattr(loaded, kind)())
        assert set(loaded_values) == set(values)
        for name, value in values.items():
            torch.testing.assert_close(loaded_values[name], value, rtol=0, atol=0, msg=name)
    inputs, _ = encode(tokeniser, [random_window(STEPS, 0)])
    with torch.no_grad():
        assert_equal(loaded(**inputs).logits, model(**inputs).logits, 1e-6)
    for selection in ("sample", "greedy"):
        actions = act_and_live(model, tokeniser, action_selection=selection)
        np.testing.assert_array_equal(act_and_live(loaded, loaded_tokeniser, action_selection=selection), actions)
        assert len(np.unique(actions)) > 1


def test_trust_remote_code_is_harmless_when_the_package_is_there(tmp_path):
    tokeniser = tiny_tokeniser()
    folder = save(tiny_model(tokeniser), tokeniser, tmp_path)
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)) is AlgorithmDistillationModel
    assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)) is HistoryTokeniser


def test_a_checkpoint_holds_its_code_and_no_vocabulary(tmp_path):
    tokeniser = tiny_tokeniser()
    folder = save(tiny_model(tokeniser), tokeniser, tmp_path)
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "configuration_algodistill.py",
        "modeling_algodistill.py",
        "tokenisation_algodistill.py",
        "agent_algodistill.py",
        "spaces_algodistill.py",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "algodistill" and config["text_config"]["vocab_size"] == 1
    assert config["auto_map"] == {
        "AutoConfig": "configuration_algodistill.AlgorithmDistillationConfig",
        "AutoModel": "modeling_algodistill.AlgorithmDistillationModel",
    }


# What follows runs where neither the package nor gymnasium can be imported.
CLEAN_PROCESS = """
import importlib.abc, json, sys

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("algodistill", "gymnasium", "datasets", "pyarrow", "matplotlib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
for name in ("algodistill", "gymnasium"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass
    else:
        sys.exit(f"{name} can be imported: this proves nothing")

import numpy as np
from transformers import AutoModel, AutoProcessor

results = []
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    tokeniser = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    agent = model.agent(tokeniser, num_envs=2, seed=3)
    rng = np.random.default_rng(5)
    actions = []
    for step in range(11):
        actions.append(agent.act(rng.integers(0, [6, 4], (2, 2))).tolist())
        agent.observe(rng.normal(size=2), np.array([step % 4 == 3, step % 3 == 2]), np.zeros(2, dtype=bool))
    results.append({"actions": actions, "module": type(model).__module__})
assert not {"algodistill", "gymnasium"} & set(sys.modules)
print(json.dumps(results))
"""


def run_clean_process(tmp_path: Path, *arguments: str, code: str = CLEAN_PROCESS) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HOME": str(tmp_path / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-I", "-c", code, *arguments],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_folder_alone_is_enough_to_act_without_the_package(tmp_path):
    folders, expected = [], []
    for layout, decoder, target in (
        ("transition", "qwen3", None),
        ("interleaved", "mistral", None),
        ("transition", "mistral", 3.0),
    ):
        tokeniser = tiny_tokeniser(layout=layout, return_conditioned=target is not None)
        model = tiny_model(tokeniser, decoder, target_return=target)
        folders.append(str(save(model, tokeniser, tmp_path / f"{layout}-{target}")))
        expected.append(act_and_live(model, tokeniser).tolist())
    process = run_clean_process(tmp_path, *folders)
    assert process.returncode == 0, process.stderr
    results = json.loads(process.stdout.splitlines()[-1])
    assert [result["actions"] for result in results] == expected
    assert all(result["module"].startswith("transformers_modules.") for result in results)


def forget(folder: Path, file: str, *settings: str) -> None:
    """Take settings out of a file of a checkpoint, as if it had been saved before there were any such."""
    saved = json.loads((folder / file).read_text())
    for setting in settings:
        del saved[setting]
    (folder / file).write_text(json.dumps(saved))


def test_a_checkpoint_from_before_there_were_returns_acts_as_it_did(tmp_path):
    tokeniser = tiny_tokeniser()
    model = tiny_model(tokeniser)
    actions = act_and_live(model, tokeniser)
    folder = save(model, tokeniser, tmp_path)
    forget(folder, "config.json", "return_conditioned", "target_return")
    forget(folder, "preprocessor_config.json", "return_conditioned", "return_scale")
    loaded, loaded_tokeniser = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert (loaded.config.return_conditioned, loaded.config.target_return) == (False, None)
    assert set(loaded.state_dict()) == set(model.state_dict())
    np.testing.assert_array_equal(act_and_live(loaded, loaded_tokeniser), actions)


def test_a_model_that_reads_returns_comes_back_with_the_one_to_ask_for(tmp_path):
    tokeniser = tiny_tokeniser(return_conditioned=True, return_scale=2.0)
    model = tiny_model(tokeniser, target_return=3.5)
    folder = save(model, tokeniser, tmp_path)
    loaded, loaded_tokeniser = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert (loaded.config.return_conditioned, loaded.config.target_return) == (True, 3.5)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0, msg=name)
    actions = act_and_live(model, tokeniser)
    np.testing.assert_array_equal(act_and_live(loaded, loaded_tokeniser), actions)
    assert not np.array_equal(act_and_live(loaded, loaded_tokeniser, target_return=-20.0), actions)


# ---- the configuration


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"layout": "words"}, "words"),
        ({"context_length": 0}, "context_length=0"),
        ({"context_length": -3}, "context_length=-3"),
        *(
            ({name: value}, f"{name}={value}")
            for name in ("label_smoothing", "token_masking", "embedding_dropout")
            for value in (-0.1, 1.5)
        ),
        ({"action_sizes": [3, 0]}, "action_sizes"),
        ({"observation_sizes": [-1]}, "observation_sizes"),
        ({"target_return": float("nan"), "return_conditioned": True}, "target_return=nan"),
        ({"target_return": -float("inf"), "return_conditioned": True}, "target_return=-inf"),
    ],
)
def test_a_configuration_out_of_range_is_refused(arguments, named):
    with pytest.raises(ValueError) as error:
        AlgorithmDistillationConfig(**arguments)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("text_config", "expected"),
    [
        (None, ("qwen3", 64, 4)),
        ({"hidden_size": 32, "num_hidden_layers": 1}, ("qwen3", 32, 1)),
        (Qwen3Config(hidden_size=32, num_hidden_layers=1), ("qwen3", 32, 1)),
        ({"model_type": "gpt2"}, ("gpt2", 768, 12)),
    ],
    ids=["default", "dict", "config", "gpt2"],
)
def test_the_decoder_is_named_by_a_dict_or_a_configuration(text_config, expected):
    decoder = AlgorithmDistillationConfig(text_config=text_config).text_config
    assert (decoder.model_type, decoder.hidden_size, decoder.num_hidden_layers) == expected
    assert decoder.vocab_size == 1
    assert decoder.pad_token_id is decoder.bos_token_id is decoder.eos_token_id is None


def test_a_configuration_keeps_everything_when_saved(tmp_path):
    values = {
        "observation_sizes": [9, 9],
        "action_sizes": [5],
        "layout": "interleaved",
        "context_length": 77,
        "label_smoothing": 0.1,
        "token_masking": 0.3,
        "embedding_dropout": 0.2,
        "return_conditioned": True,
        "target_return": -12.5,
        "environment": "algodistill/DarkRoom-v0",
        "environment_kwargs": {"size": 9},
        "test_tasks": [{"goal": [0, 1]}],
    }
    AlgorithmDistillationConfig(text_config=DECODERS["mistral"], **values).save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in values} == values
    assert loaded.text_config.model_type == "mistral" and loaded.text_config.sliding_window == 4
    assert loaded.tokens_per_step == 3
    assert loaded.get_text_config() is loaded.text_config


def test_dimensions_of_observations_have_embeddings_of_their_own():
    space = MultiDiscrete([4, 4])
    tokeniser = tiny_tokeniser(space, Discrete(3))
    model = tiny_model(tokeniser)
    assert model.embedding.observation.weight.shape == (8, 32)
    assert model.embedding.action.weight.shape == (4, 32)
    # (1, 2) and (2, 1) are different places.
    window = random_window(1, 0, space, Discrete(3))
    logits = []
    for observation in ([1, 2], [2, 1]):
        with torch.no_grad():
            inputs, _ = encode(tokeniser, [{**window, "observations": np.array([observation])}])
            logits.append(model(**inputs).logits)
    assert (logits[0] - logits[1]).abs().max() > 1e-3
