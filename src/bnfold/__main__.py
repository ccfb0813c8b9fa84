"""The command ``bnfold``, also as ``python -m bnfold``. Signals come first, then the imports."""

import sys

from bnfold.cli.signals import handle_signals, received


def main() -> None:
    """Run the command."""
    handle_signals()
    try:
        from bnfold.cli.main import main as command
    except BaseException:
        number = received()
        if number is None:
            raise
        sys.exit(128 + number)
    command()


if __name__ == "__main__":
    main()
