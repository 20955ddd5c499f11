"""The paper's experiments: runs, tables, claims, reports, 4-step training and pretraining."""

from .campaign import Progress, reproduce
from .cluster import Cluster
from .four_step import FourStep, proposal_opts
from .reproduction import Reproduction
from .runs import BusyError, Run, Runner
from .tables import Claim, Row, Scale, Table, Tables, load_tables

__all__ = [
    "BusyError",
    "Claim",
    "Cluster",
    "FourStep",
    "Progress",
    "Reproduction",
    "Row",
    "Run",
    "Runner",
    "Scale",
    "Table",
    "Tables",
    "load_tables",
    "proposal_opts",
    "reproduce",
]
