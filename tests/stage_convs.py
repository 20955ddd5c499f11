"""A bottom-up network to use instead of ResNet-18, which takes torch.compile minutes."""

from detectron2.layers import Conv2d
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F


@BACKBONE_REGISTRY.register()
class StageConvs(Backbone):
    """A convolution and a norm for each of ``MODEL.FPN.IN_FEATURES``."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self._out_features = cfg.MODEL.FPN.IN_FEATURES
        self._out_feature_strides = {name: 2 ** int(name[3:]) for name in self._out_features}
        self._out_feature_channels = dict.fromkeys(self._out_features, 8)
        inputs, stride = input_shape.channels, self._out_feature_strides[self._out_features[0]]
        for name in self._out_features:
            conv = Conv2d(inputs, 8, 3, stride, 1, norm=nn.BatchNorm2d(8), activation=F.relu)
            self.add_module(name, conv)
            inputs, stride = 8, 2

    def forward(self, x):
        features = {}
        for name in self._out_features:
            features[name] = x = getattr(self, name)(x)
        return features
