"""``python -m bnfold`` is the command ``bnfold``."""

from bnfold.cli.main import main

if __name__ == "__main__":
    main()
