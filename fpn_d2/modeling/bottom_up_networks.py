"""Detectron2's ResNet-18 and 34 in any width, and its RegNet, as bottom-up networks."""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, ResNet
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem

from ..utils.errors import UserError

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # of res2 to res5


@BACKBONE_REGISTRY.register()
def build_basic_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet of basic blocks ("Deep Residual Learning", CVPR 2016, Table 1).

    ``build_resnet_backbone`` insists on 64 channels in res2; here ``RESNETS.RES2_OUT_CHANNELS`` may
    be any number, and each later stage doubles it. The names of the weights are the same. Stages
    beyond the last of ``RESNETS.OUT_FEATURES`` are left out.

    Raises:
        UserError: for a depth other than 18 and 34, which has no basic blocks.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in _BLOCKS:
        raise UserError(
            f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}, which has no basic blocks; set 18 or 34, or "
            "MODEL.FPN.BOTTOM_UP build_resnet_backbone"
        )
    channels = resnets.STEM_OUT_CHANNELS
    stem = BasicStem(input_shape.channels, channels, norm=resnets.NORM)
    stages = []
    last = max((i for i in range(4) if f"res{i + 2}" in resnets.OUT_FEATURES), default=3)
    for i, blocks in enumerate(_BLOCKS[resnets.DEPTH][: last + 1]):
        width = resnets.RES2_OUT_CHANNELS * 2**i
        strides = [1 if i == 0 else 2] + [1] * (blocks - 1)
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                blocks,
                stride_per_block=strides,
                in_channels=channels,
                out_channels=width,
                norm=resnets.NORM,
            )
        )
        channels = width
    network = ResNet(stem, stages, out_features=resnets.OUT_FEATURES)
    return network.freeze(cfg.MODEL.BACKBONE.FREEZE_AT)


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
