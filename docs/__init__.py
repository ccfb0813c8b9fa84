"""The documentation: Markdown pages, and what generates the others. `make docs` builds the site."""
