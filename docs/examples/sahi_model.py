"""A Predictor as a model of SAHI's, which finds small objects in slices of large images.

get_sliced_prediction("large.jpg", FpnD2Model("output/demo"), 640, 640, batch_size=8)
"""

from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.prediction import ObjectPrediction
from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list

from fpn_d2 import Predictor


class FpnD2Model(DetectionModel):
    def load_model(self) -> None:
        self.set_model(Predictor.from_run(self.model_path))

    def set_model(self, model: Predictor, **kwargs: Any) -> None:
        self.model = model
        self.category_mapping = {str(i): name for i, name in enumerate(model.class_names)}

    def perform_inference(self, image: np.ndarray) -> None:
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        self._original_predictions = self.model([image[:, :, ::-1] for image in images])  # BGR

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        outputs = self._original_predictions
        shifts = fix_shift_amount_list(shift_amount_list)
        shapes = fix_full_shape_list(full_shape_list) or [None] * len(outputs)
        self._object_prediction_list_per_image = [[] for _ in outputs]
        for i, output in enumerate(outputs):
            found = output["instances"][output["instances"].scores >= self.confidence_threshold]
            values = found.pred_boxes, found.pred_classes.tolist(), found.scores.tolist()
            for box, label, score in zip(*values, strict=True):
                about = {"score": score, "shift_amount": shifts[i], "full_shape": shapes[i]}
                name = self.category_mapping[str(label)]
                found_object = ObjectPrediction(box.tolist(), label, name, **about)
                self._object_prediction_list_per_image[i].append(found_object)
