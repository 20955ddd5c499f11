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
- *Centres of cells* lie at (i + 1/2) strides, so a region is centred on what its cell shows.
- *Extreme scales*: objects below the first or above the last scale belong to it, so that every
  object has places. On an image pyramid other resizes answer for them (``ASSIGN_EXTREMES`` False).
- *Between the scales*: the nearest in log space; of two equally near ones the smaller.
- *No ignore band*: the paper calls all other places negative. Places outside of the image, in the
  padding of a batch, are no samples. Crowd regions are no objects, so places on them are negative.
- *1:3* is the largest share of positives. Most images have fewer, and negatives fill the 128.
- *ReLU* after the 512-d layer, as "MLP" implies; no norm, as in the paper's heads.
- *Losses*: logistic, the score's averaged over the samples, the mask's over the pixels of the
  positives and multiplied by 10.
- *Mask threshold*: 0.2, which is DeepMask's.
- *Scales of the image pyramid* are factors of the network input (800 px). DeepMask's are of images
  as COCO has them, mostly 480 px, so the baseline sees smaller objects here than there. Its 5x5
  window spans 80 px at stride 16, half of the 160 px region, as on the pyramid's levels.
- *Training* computes the MLPs at the sampled places only, which is the same as everywhere and a
  loss at the samples.
"""

from .generator import MaskProposalGenerator
from .head import MaskProposalHead
from .meta_arch import MaskProposalNetwork

__all__ = ["MaskProposalGenerator", "MaskProposalHead", "MaskProposalNetwork"]
