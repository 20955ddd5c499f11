"""Detectron2's COCO evaluation, whose numbers other tools can read."""

import json
import math
import os
from typing import Any

from detectron2.evaluation import COCOEvaluator

__all__ = ["ResultsWritingCOCOEvaluator"]


class ResultsWritingCOCOEvaluator(COCOEvaluator):
    """A :class:`COCOEvaluator` that also writes what it returns, as ``results.json``.

    Detectron2 leaves the numbers of ``--eval-only`` in the log alone. A metric without a value,
    such as the AP of a size that no object has, is null in the file.
    """

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """See :meth:`COCOEvaluator.evaluate`."""
        results = super().evaluate(img_ids)
        if self._output_dir and results:  # processes other than the main one have none
            numbers = {
                task: {key: None if math.isnan(value) else value for key, value in metrics.items()}
                for task, metrics in results.items()
            }
            with open(os.path.join(self._output_dir, "results.json"), "w") as file:
                json.dump(numbers, file, indent=2)
        return results
