"""Collect learning histories, distil them, evaluate: `accelerate launch train.py --config configs/dark_room.yaml`."""

import sys

from algodistill.train import main


if __name__ == "__main__":
    sys.exit(main())
