"""This package beside stock Detectron2 and what else a user would pick, on the machine at hand.

measure      runs contestants in turn
precisions   of a device, and its own matrix products in them
networks     Faster R-CNN R-50 FPN of one set of weights in three packages
detectors    its inference
training     its training step
agreement    detections of a trained model, prepared and as Detectron2 has it
operators    RoIAlign; a linear layer; mask proposals against an image pyramid
table_rows   every row of the tables; the matching of P2's anchors
torchvision_parity  a converted torchvision detector beside the original
exports      exported models and those that they were made of
profiling    where a detector's time goes
report       the rows as a file and as a table
"""

from .agreement import benchmark_agreement
from .detectors import benchmark_inference
from .measure import take_turns
from .operators import benchmark_linear, benchmark_mask_proposals, benchmark_pooling
from .profiling import profile_detectors
from .report import benchmark_table, describe_benchmark, write_benchmark
from .table_rows import benchmark_matching, benchmark_rows
from .training import benchmark_training

__all__ = [
    "benchmark_agreement",
    "benchmark_inference",
    "benchmark_linear",
    "benchmark_mask_proposals",
    "benchmark_matching",
    "benchmark_pooling",
    "benchmark_rows",
    "benchmark_table",
    "benchmark_training",
    "describe_benchmark",
    "profile_detectors",
    "take_turns",
    "write_benchmark",
]
