"""The paper's experiments: its tables as data, their runner and their report."""

from .readme import fill_in_results
from .reproduction import Reproduction
from .session import Progress, reproduce
from .tables import Claim, Row, Scale, Table, Tables, load_tables

__all__ = [
    "Claim",
    "Progress",
    "Reproduction",
    "Row",
    "Scale",
    "Table",
    "Tables",
    "fill_in_results",
    "load_tables",
    "reproduce",
]
