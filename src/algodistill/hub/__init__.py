"""What others see of a dataset or a checkpoint: its card, and its repository on the Hub."""

from .cards import CARD_FILE, shipped_folder
from .dataset_card import COLLECTION_FILE, history_shards, write_dataset_card
from .model_card import SETTINGS_FILE, is_hub_id, write_model_card
from .publishing import Publication, model_files, plain_errors, publish


__all__ = [
    "CARD_FILE",
    "COLLECTION_FILE",
    "SETTINGS_FILE",
    "Publication",
    "history_shards",
    "is_hub_id",
    "model_files",
    "plain_errors",
    "publish",
    "shipped_folder",
    "write_dataset_card",
    "write_model_card",
]
