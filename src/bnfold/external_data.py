"""Where models have their external data, for the command and the batch.

They keep outputs apart from these files, and hash them; else they leave model files to the API.
"""

from __future__ import annotations

from bnfold.modelfile.external import data_files as data_files
from bnfold.modelfile.external import data_folders as data_folders
from bnfold.modelfile.external import locations_of as locations_of
