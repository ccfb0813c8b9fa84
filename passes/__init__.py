"""The rewrites that ship with bnfold, one per file. The engine finds them by entry point."""
