"""Detectron2's COCO evaluation, whose numbers other tools can read."""

import json
import os
from typing import Any

from detectron2.evaluation import COCOEvaluator

__all__ = ["ResultsWritingCOCOEvaluator"]


class ResultsWritingCOCOEvaluator(COCOEvaluator):
    """A :class:`COCOEvaluator` that also writes what it returns, as ``results.json``.

    Detectron2 leaves the numbers of ``--eval-only`` in the log alone.
    """

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """See :meth:`COCOEvaluator.evaluate`."""
        results = super().evaluate(img_ids)
        if self._output_dir and results:  # processes other than the main one have none
            with open(os.path.join(self._output_dir, "results.json"), "w") as file:
                json.dump(results, file, indent=2)
        return results
