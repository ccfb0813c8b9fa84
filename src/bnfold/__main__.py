"""The command ``bnfold``, also as ``python -m bnfold``. Signals come first, then the imports."""

import sys

from bnfold.cli.signals import handle_signals, received


def main() -> None:
    """Run the command."""
    handle_signals()
    try:
        from bnfold.cli.main import main as command
    except BaseException as error:
        number = received()
        if number is not None:
            sys.exit(128 + number)
        if not isinstance(error, (ImportError, OSError)):
            raise
        text = f"bnfold: a module cannot be imported: {error}; reinstall bnfold"
        print(" ".join(text.split()), file=sys.stderr)
        sys.exit(2)
    command()


if __name__ == "__main__":
    main()
