"""Pascal VOC's evaluation, whose results other tools can read."""

from typing import Any

from detectron2.evaluation import PascalVOCDetectionEvaluator

from ..utils.progress import working
from .coco_evaluation import write_results


class ResultsWritingVOCEvaluator(PascalVOCDetectionEvaluator):
    """A :class:`PascalVOCDetectionEvaluator` that also writes its metrics as ``results.json``."""

    def __init__(self, dataset_name: str, output_dir: str):
        """See :class:`PascalVOCDetectionEvaluator`; ``output_dir`` is the folder of the file."""
        super().__init__(dataset_name)
        self._output_dir = output_dir

    def evaluate(self) -> dict[str, Any] | None:
        """See :meth:`PascalVOCDetectionEvaluator.evaluate`."""
        with working("computing Pascal VOC's metrics"):
            results = super().evaluate()
        if results:  # only the main process has results
            write_results(self._output_dir, results)
        return results
