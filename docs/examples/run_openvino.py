"""Run an exported detector: python run_openvino.py MODEL.xml IMAGE [PROPOSALS.npy]"""

import json
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

graph = openvino.Core().read_model(sys.argv[1])
model = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
about = graph.get_rt_info("fpn_d2").value
names = json.loads(about["class_names"])
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB")
scale = min(int(about["min_size"]) / min(image.size), int(about["max_size"]) / max(image.size)) or 1
resized = image.resize([int(side * scale + 0.5) for side in image.size], Image.BILINEAR)
pixels = np.asarray(resized, np.float32)[:, :, :: -1 if about["input_format"] == "BGR" else 1]
inputs = {"image": np.ascontiguousarray(pixels.transpose(2, 0, 1))}
back = np.array(image.size * 2, np.float32) / np.array(resized.size * 2, np.float32)
if len(model.inputs) == 2:  # a Fast R-CNN: boxes (P, 4) in pixels of the image
    inputs["proposals"] = np.load(sys.argv[3]).astype(np.float32) / back
boxes, scores, *classes = model(inputs).values()
for i, (box, score) in enumerate(zip(boxes * back, scores, strict=True)):
    print(names[classes[0][i]] if classes else "object", f"{score:.3f}", *box.round(2))
