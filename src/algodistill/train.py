"""The main job as a program: `accelerate launch -m algodistill.train --config dark_room`."""

import sys

from .outcomes import exit_code


def main() -> int:
    """Run the main job with the command line's arguments; returns the exit code."""

    def command() -> None:
        from .training.running import run

        run(sys.argv[1:])

    return exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
