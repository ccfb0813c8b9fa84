"""The rewrites that ship with bnfold, one file each. The engine finds them by entry point."""
