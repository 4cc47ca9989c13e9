"""Cards: what someone reads who has just found a dataset of histories or a checkpoint."""

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import CardData


CARD_FILE = "README.md"
# A part of a card that is written anew each time, as the templates of `hub_cards/` mark it.
_BEGIN = re.compile(r"<!-- algodistill: (\S+) ")
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(?P<yaml>.*?)(?:(?<=\n)|\r?\n)---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
# How the results of an in-context evaluation are told from others in a card's metadata.
RESULT_TASK = "in-context reinforcement learning"
# Metadata that says what the files are; the rest (licence, title, language) is the author's once it is there.
_GENERATED_METADATA = (
    "library_name",
    "pipeline_tag",
    "task_categories",
    "size_categories",
)


def shipped_folder(name: str) -> Path:
    """A folder that comes with the project: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parents[1] / name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; an empty one if there is no such file.

    Raises:
        ValueError: If the file holds something else.
    """
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object.")
    return value


def render_card(template: str, metadata: CardData, values: Mapping[str, Any]) -> str:
    """Fill a template of `hub_cards/`.

    Args:
        template (`str`): Name of the template's file.
        metadata (`huggingface_hub.CardData`): The card's metadata, `card_data` in the template.
        values (`Mapping`): What else the template names.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(shipped_folder("hub_cards")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(template).render(card_data=metadata.to_yaml(), **values)


def merge_cards(existing: str, generated: str) -> str:
    """Renew the generated parts of a card; everything else stays as it was found.

    Generated are the sections between `<!-- algodistill: NAME ... -->` and `<!-- /algodistill: NAME -->`, and of the
    metadata what describes the files. A section that was taken out stays out, unless none of its kind (the part of
    NAME before a slash) is left: then the card is new to it, and gets them all at its end.

    Args:
        existing (`str`): The card as it is; may be empty.
        generated (`str`): The card as it would be written from nothing.

    Raises:
        ValueError: If the existing card's metadata cannot be read.
    """
    if not existing.strip():
        return generated
    block, text = _split(existing)
    new_block, new_text = _split(generated)
    new_sections = {name: section for name, section in _pieces(new_text) if name}
    pieces = _pieces(text)
    kinds = {name.split("/")[0] for name, _ in pieces if name}
    text = "".join(new_sections.get(name, piece) for name, piece in pieces)
    for name, section in new_sections.items():
        if name.split("/")[0] not in kinds:
            text = f"{text.rstrip()}\n\n{section}\n"
    metadata = _merge_metadata(_read(block), _read(new_block))
    if not metadata:
        return text
    return f"---\n{_renew(block, metadata)}---\n{text}"


def card_metadata(card: str) -> dict[str, Any]:
    """The metadata of a card.

    Raises:
        ValueError: If it cannot be read.
    """
    return _read(_split(card)[0])


def _pieces(text: str) -> list[tuple[str, str]]:
    """A text in pieces, end to end: generated sections by their name, and what lies between them by none."""
    pieces, position = [], 0
    begins = list(_BEGIN.finditer(text))
    following = [*(begin.start() for begin in begins), len(text)][1:] if begins else []
    for begin, next_begin in zip(begins, following, strict=True):
        end_mark = f"<!-- /algodistill: {begin[1]} -->"
        # Not beyond the next beginning: one of which the end was lost is text.
        end = text.find(end_mark, begin.end(), next_begin)
        if end >= 0:
            pieces += [("", text[position : begin.start()]), (begin[1], text[begin.start() : end + len(end_mark)])]
            position = end + len(end_mark)
    return [*pieces, ("", text[position:])]


def plain(text: Any) -> str:
    """A text from outside as one line of Markdown that is nothing but text."""
    one_line = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`|\[\]{}])", r"\\\1", one_line)


def _split(card: str) -> tuple[str, str]:
    """The lines of a card's metadata, and its text."""
    card = card.removeprefix("\ufeff")
    match = _FRONT_MATTER.match(card)
    return (match["yaml"].replace("\r\n", "\n"), card[match.end() :]) if match else ("", card)


def _read(block: str) -> dict[str, Any]:
    try:
        metadata = yaml.safe_load(block) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The metadata at the head of the card (README.md) is not YAML, mend it: {reason}") from error
    if not isinstance(metadata, dict):
        raise ValueError("The metadata at the head of the card (README.md) is not a mapping: mend it.")
    return metadata


def _renew(block: str, metadata: dict[str, Any]) -> str:
    """The lines of a card's metadata with these values; where a value stays, so does what its author wrote."""
    before = _read(block)
    # A line that begins with neither space, list item nor comment begins another key.
    head, *entries = re.split(r"^(?=[^\s#-])", f"{block}\n", flags=re.MULTILINE)
    try:
        kept = {next(iter(_read(entry))): entry.strip("\n") + "\n" for entry in entries}
    except (ValueError, StopIteration):
        kept = {}
    if list(kept) != list(before):
        head, kept = "", {}  # Written in another style: all of it is written anew.
    lines = [f"{head.rstrip()}\n" if head.strip() else ""]
    for key, value in metadata.items():
        if key in kept and before[key] == value:
            lines.append(kept[key])
        else:
            lines.append(yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=120))
    return "".join(lines)


def _merge_metadata(existing: dict[str, Any], generated: dict[str, Any]) -> dict[str, Any]:
    """What describes the files is taken from what is generated, what else there is from the author."""
    merged = {**existing, **{key: value for key, value in generated.items() if key not in existing}}
    merged.update({key: generated[key] for key in _GENERATED_METADATA if key in generated})
    for key in ("tags", "datasets"):
        if key in generated:
            merged[key] = list(dict.fromkeys([*_as_list(existing.get(key)), *generated[key]]))
    if "configs" in generated:
        theirs = [config for config in _as_list(existing.get("configs")) if isinstance(config, dict)]
        configs = [*(config for config in theirs if "config_name" in config), *generated["configs"]]
        merged["configs"] = list({config["config_name"]: config for config in configs}.values())
    # Results of weights that are not there any more must not stay; those of others stay beside ours.
    models = [_without_our_results(model) for model in _as_list(existing.get("model-index"))]
    models = [model for model in models if model.get("results")]
    for model in generated.get("model-index", []):
        same = next((other for other in models if other.get("name") == model["name"]), None)
        if same is None:
            models.append(model)
        else:
            same["results"] = [*same["results"], *model["results"]]
    if models:
        merged["model-index"] = models
    else:
        merged.pop("model-index", None)
    return merged


def _without_our_results(model: Any) -> dict[str, Any]:
    if not isinstance(model, dict):
        return {}
    results = [result for result in _as_list(model.get("results")) if isinstance(result, dict)]
    others = [result for result in results if _as_mapping(result.get("task")).get("name") != RESULT_TASK]
    return {**model, "results": others}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _as_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
