"""What others see of a dataset or a checkpoint: its card."""

from .cards import shipped_folder, write_card, write_model_card


__all__ = ["shipped_folder", "write_card", "write_model_card"]
