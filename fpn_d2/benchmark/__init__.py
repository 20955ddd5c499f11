"""This package beside stock Detectron2 and what else a user would pick, on the machine at hand.

measure      runs contestants in turn; the machine's own matrix products
detectors    inference and training of Faster R-CNN R-50 FPN
agreement    detections of a trained model, prepared and as Detectron2 has it
operators    RoIAlign; mask proposals against an image pyramid
exports      exported models and those that they were made of
report       the rows as a file and as a table
"""

from .agreement import benchmark_agreement
from .detectors import benchmark_inference, benchmark_training
from .exports import export_table, report_parity
from .operators import benchmark_mask_proposals, benchmark_pooling
from .report import benchmark_table, write_benchmark

__all__ = [
    "benchmark_agreement",
    "benchmark_inference",
    "benchmark_mask_proposals",
    "benchmark_pooling",
    "benchmark_table",
    "benchmark_training",
    "export_table",
    "report_parity",
    "write_benchmark",
]
