"""Detectron2's COCO evaluation, whose numbers other tools can read."""

import math
import os
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals

from ..utils.files import write_json

__all__ = ["ResultsWritingCOCOEvaluator"]


class ResultsWritingCOCOEvaluator(COCOEvaluator):
    """A :class:`COCOEvaluator` that also writes what it returns, as ``results.json``.

    Detectron2 leaves the numbers of ``--eval-only`` in the log alone. A metric without a value,
    such as the AP of a size that no object has, is null in the file. The recall of proposals is
    measured at fewer than Detectron2's 100 and 1000 too, for the curve of AR over their number.
    """

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """See :meth:`COCOEvaluator.evaluate`."""
        results = super().evaluate(img_ids)
        if self._output_dir and results:  # processes other than the main one have none
            numbers = {
                task: {key: None if math.isnan(value) else value for key, value in metrics.items()}
                for task, metrics in results.items()
            }
            write_json(os.path.join(self._output_dir, "results.json"), numbers)
        return results

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        """See :meth:`COCOEvaluator._eval_box_proposals`; adds AR@10, AR@30 and AR@300."""
        super()._eval_box_proposals(predictions)
        if "box_proposals" in self._results:  # not for images without annotations
            for limit in (10, 30, 300):
                recall = _evaluate_box_proposals(predictions, self._coco_api, limit=limit)
                self._results["box_proposals"][f"AR@{limit}"] = recall["ar"].item() * 100
