"""Describes fpn_d2 for pip; imports nothing but the standard library and setuptools."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
OPENVINO = ["openvino>=2026.4", "nncf>=3.4", "onnx>=1.13"]  # for int8, and for the export


def version() -> str:
    """Reads ``__version__`` as text: importing the package would import torch and Detectron2."""
    text = (ROOT / "fpn_d2" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def long_description() -> str:
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


class BuildWithTrainNet(build_py):
    """Puts train_net.py, which a clone has in its root as Detectron2 does, among the tools."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        more = [(package, "train_net", "train_net.py")] if package == "fpn_d2_tools" else []
        return [*modules, *more]


setup(
    name="fpn_d2",
    version=version(),
    description="Feature Pyramid Networks for Object Detection (CVPR 2017) on Detectron2",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=[
        *find_packages(include=["fpn_d2", "fpn_d2.*"]),
        "fpn_d2.configs",
        "fpn_d2_tools",
        "fpn_d2_tools.benchmark",
    ],
    package_dir={"fpn_d2.configs": "configs", "fpn_d2_tools": "tools"},
    entry_points={"console_scripts": ["fpn-d2 = fpn_d2_tools.command:main"]},
    cmdclass={"build_py": BuildWithTrainNet},
    package_data={
        "fpn_d2": ["py.typed"],
        "fpn_d2.configs": ["**/*.yaml"],
        "fpn_d2.inspection": ["*.j2"],
        "fpn_d2.experiments": ["*.j2"],
        "fpn_d2.visualization": ["*.css", "*.j2"],
    },
    python_requires=">=3.10",
    # torch, torchvision and Detectron2 are needed too and stay out on purpose. pip would fetch
    # `detectron2 @ git+...` again although it is installed, and would build it in an isolated
    # environment, where the torch that its setup.py imports is missing; and torch's wheel is the
    # user's choice (CPU, CUDA version). `make setup` installs all three where they are missing.
    # Lower bounds are Detectron2's own, so nothing that works with it is upgraded.
    install_requires=[
        "Pillow>=7.1",
        "PyYAML>=5.1",
        "defusedxml",
        "jinja2>=3",
        "matplotlib",
        "msgspec>=0.18",
        "numpy",
        "portalocker",
        "pycocotools>=2.0.2",
        "safetensors>=0.4",
        "shapely",  # fvcore's, which Detectron2's crops cut polygons by and does not ask for
        "supervision>=0.30",
        "tabulate",
        "tqdm>4.29.0",
    ],
    extras_require={
        "app": ["gradio>=6.0"],  # tools/app.py
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3",
            "ruff==0.17.5",
            "hypothesis>=6",
            "submitit>=1.5",
            *OPENVINO,
        ],
        "export": ["onnx>=1.13", "onnxruntime>=1.14"],  # tools/export.py --format onnx
        "openvino": OPENVINO,  # INFERENCE.ENGINE openvino, tools/export.py --format openvino
        "slurm": ["submitit>=1.5"],  # tools/reproduce.py --slurm
    },
)
