"""Detectron2's RegNet as a bottom-up network that a YAML file can name."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem


@BACKBONE_REGISTRY.register()
def build_regnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> RegNet:
    """Build the RegNet of ``cfg.MODEL.REGNETS`` ("Designing Network Design Spaces", CVPR 2020).

    Its stages s1 to s4 have strides of 4 to 32 pixels; those beyond the last of ``OUT_FEATURES``
    are left out.
    """
    regnet = cfg.MODEL.REGNETS
    assert input_shape.channels == 3, "Detectron2's RegNet takes three channels"
    network = RegNet(
        stem_class=SimpleStem,
        stem_width=32,
        block_class=ResBottleneckBlock,
        depth=regnet.DEPTH,
        w_a=regnet.W_A,
        w_0=regnet.W_0,
        w_m=regnet.W_M,
        group_width=regnet.GROUP_WIDTH,
        se_ratio=regnet.SE_RATIO,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm=regnet.NORM,
        out_features=regnet.OUT_FEATURES,
    )
    # Detectron2's ResNet leaves out the stages beyond its last output, but its RegNet builds them.
    names = [name for _, name in network.stages_and_names]
    last = max(names.index(name) for name in regnet.OUT_FEATURES if name in names)
    for name in names[last + 1 :]:
        delattr(network, name)
    del network.stages_and_names[last + 1 :]
    return network
