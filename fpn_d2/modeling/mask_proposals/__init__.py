"""Section 6 and Appendix A: proposals of object masks from the pyramid, without an image pyramid.

    targets     which place answers for which object, and which region it looks at
    head        the MLPs, as convolutions shared over the levels
    generator   sampling, losses and the best proposals
    meta_arch   the network, over one image or over an image pyramid

What the paper leaves open, decided here:

- *One cell of the object's centre*: the larger of the horizontal and the vertical distance is at
  most ``CENTER_RADIUS`` cells, as DeepMask's shifts are per axis. The centre is that of the box.
- *Ties*: a place near the centres of several objects of its scale answers for the nearest centre;
  of equally near ones, the smaller object, which fewer places answer for.
- *Extreme scales*: objects below the first or above the last scale belong to it, so that every
  object has places. On an image pyramid other resizes answer for them (``ASSIGN_EXTREMES`` False).
- *Between the scales*: the nearest in log space; of two equally near ones the smaller.
- *No ignore band*: the paper calls all other places negative. Places outside of the image, in the
  padding of a batch, are no samples. Crowd regions are no objects, so places on them are negative.
- *ReLU* after the 512-d layer, as "MLP" implies; no norm, as in the paper's heads.
- *Losses*: logistic, the score's averaged over the samples, the mask's over the pixels of the
  positives and multiplied by 10.
- *Mask threshold*: 0.2, which is DeepMask's.
- *Training* computes the MLPs at the sampled places only, which is the same as everywhere and a
  loss at the samples.
"""

from .generator import MaskProposalGenerator
from .head import MaskProposalHead
from .meta_arch import MaskProposalNetwork

__all__ = ["MaskProposalGenerator", "MaskProposalHead", "MaskProposalNetwork"]
