"""Cards: what someone reads who has just found a dataset of histories or a checkpoint."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import CardData


CARD_FILE = "README.md"
# A part of a card that is written anew each time, as the templates of `hub_cards/` mark it.
_SECTION = re.compile(r"<!-- algodistill: (?P<name>\S+) .*?<!-- /algodistill: (?P=name) -->", re.DOTALL)
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?P<yaml>.*?)\n---[ \t]*\n", re.DOTALL)
# Metadata that says what the files are; the rest (licence, title, language) is the author's once it is there.
_GENERATED_METADATA = (
    "library_name",
    "pipeline_tag",
    "task_categories",
    "size_categories",
    "datasets",
    "model-index",
)


def shipped_folder(name: str) -> Path:
    """A folder that comes with the project: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parents[1]
    inside = package / name
    return inside if inside.is_dir() else package.parents[1] / name


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
    metadata, text = _split(existing)
    new_metadata, new_text = _split(generated)
    new_sections = {match["name"]: match.group() for match in _SECTION.finditer(new_text)}
    kinds = {match["name"].split("/")[0] for match in _SECTION.finditer(text)}
    text = _SECTION.sub(lambda match: new_sections.get(match["name"], match.group()), text)
    for name, section in new_sections.items():
        if name.split("/")[0] not in kinds:
            text = f"{text.rstrip()}\n\n{section}\n"
    merged = _merge_metadata(metadata, new_metadata)
    if merged == metadata:
        return existing[: len(existing) - len(_split(existing)[1])] + text
    return f"---\n{yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=120)}---\n{text}"


def _split(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card."""
    match = _FRONT_MATTER.match(card)
    if match is None:
        return {}, card
    try:
        metadata = yaml.safe_load(match["yaml"]) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"The metadata of the card is not YAML, mend it: {' '.join(str(error).split())}") from error
    if not isinstance(metadata, dict):
        raise ValueError("The metadata of the card is not a mapping: mend it.")
    return metadata, card[match.end() :]


def _merge_metadata(existing: dict[str, Any], generated: dict[str, Any]) -> dict[str, Any]:
    merged = {**generated, **existing}
    merged.update({key: generated[key] for key in _GENERATED_METADATA if key in generated})
    if "tags" in generated:
        merged["tags"] = list(dict.fromkeys([*(existing.get("tags") or []), *generated["tags"]]))
    if "configs" in generated:
        configs = {
            config["config_name"]: config for config in [*(existing.get("configs") or []), *generated["configs"]]
        }
        merged["configs"] = list(configs.values())
    return merged
