"""Object mask proposals from the pyramid, without an image pyramid (Sec. 6, Appendix A).

    targets     the places that answer for each object, and the regions that they look at
    generator   the MLPs, as convolutions that all levels share; sampling, losses, best proposals
    meta_arch   the network, over one image or over an image pyramid

A place is a cell of a level, as one of the MLPs sees it. The paper leaves some details open; they
are decided here:

- *One cell of the object's centre*: the larger of the horizontal and the vertical distance is at
  most ``CENTER_RADIUS`` cells, as DeepMask's shifts are per axis. The centre is that of the box.
- *Ties*: a place near the centres of several objects of its scale answers for the nearest one; if
  they are equally near, for the smaller one, which has fewer places.
- *Centres of cells* lie at (i + 1/2) strides, so a region is centred on what its cell shows.
- *Extreme scales*: objects below the first or above the last scale belong to it, so every object
  has places. On an image pyramid, other sizes of the image answer for them (``ASSIGN_EXTREMES``
  False).
- *Between the scales*: the nearest scale in log space; of two equally near ones the smaller.
- *No ignore band*: the paper calls all other places negative. Places outside the image, in the
  padding of a batch, are not sampled. Crowd regions are not objects: places on them are negative.
- *1:3* is the largest share of positives. Most images have fewer, and negatives fill the 128.
- *ReLU* follows the 512-d layer, as "MLP" implies. There is no norm, as in the paper's heads.
- *Losses* are logistic. The score's is averaged over the samples; the mask's is averaged over the
  pixels of the positives and multiplied by 10.
- *Mask threshold*: 0.2, which is DeepMask's.
- *Image pyramid*: its factors (``TEST_SCALES``) apply to the network input (800 px). DeepMask's
  apply to COCO's images, mostly 480 px, so the baseline sees smaller objects here than there. Its
  5x5 window spans 80 px at stride 16, half of the region of 160 px, as on the pyramid's levels.
- *Training* computes the MLPs at the sampled places only; the results there equal those computed
  everywhere.
"""

from .generator import MaskProposalGenerator, MaskProposalHead
from .meta_arch import MaskProposalNetwork

__all__ = ["MaskProposalGenerator", "MaskProposalHead", "MaskProposalNetwork"]
