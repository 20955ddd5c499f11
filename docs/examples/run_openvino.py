"""Run an exported detector: python run_openvino.py MODEL.xml IMAGE [PROPOSALS.npy]"""

import json
import sys

import numpy as np
import openvino
from PIL import Image, ImageOps

graph = openvino.Core().read_model(sys.argv[1])
model = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
about = graph.get_rt_info("fpn_d2").value
with open(sys.argv[2], "rb") as file:  # by its name Pillow 13 garbles grey TIFFs that lie aside
    image = ImageOps.exif_transpose(Image.open(file))
if about["input_format"] not in ("BGR", "RGB", "L") or image.mode in ("I", "F"):
    sys.exit(f"{sys.argv[2]}: {about['input_format']}, or 32 bits ({image.mode}), is not read here")
elif image.mode.startswith("I;16"):  # grey, of which convert() would clip all above 255
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
least, most, short = int(about["min_size"]), int(about["max_size"]), min(image.size)
sides = [least if side == short else least / short * side for side in image.size]
# In Detectron2's order, which rounds as it does.
sides = [side * min(1, most / max(sides)) for side in sides] if least else image.size
resized = image.convert("L" if about["input_format"] == "L" else "RGB").resize(
    [max(1, int(side + 0.5)) for side in sides], Image.BILINEAR
)
inputs = {
    "image": np.asarray(resized, np.float32)
    .reshape(*resized.size[::-1], -1)[:, :, :: -1 if about["input_format"] == "BGR" else 1]
    .transpose(2, 0, 1)
    .copy()
}
back = np.array(image.size * 2, np.float32) / np.array(resized.size * 2, np.float32)
if len(model.inputs) == 2:  # a Fast R-CNN: boxes (P, 4) in pixels of the image
    inputs["proposals"] = np.load(sys.argv[3]).astype(np.float32) / back
boxes, scores, *classes = model(inputs).values()
for i, (box, score) in enumerate(zip(boxes * back, scores, strict=True)):
    print(
        json.loads(about["class_names"])[classes[0][i]] if classes else "object",
        f"{score:.3f}",
        *box.round(2),
    )
