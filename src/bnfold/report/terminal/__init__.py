"""Renders a record for a terminal."""

from bnfold.report.terminal.lines import Detail as Detail
from bnfold.report.terminal.pages import print_comparison as print_comparison
from bnfold.report.terminal.pages import print_explanation as print_explanation
from bnfold.report.terminal.pages import print_optimization as print_optimization
from bnfold.report.terminal.pages import print_speed as print_speed
