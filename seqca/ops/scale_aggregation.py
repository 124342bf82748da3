"""A 1×1 convolution over maps of several resolutions."""

from seqca.reference.scale_aggregation import scale_aggregation

__all__ = ["scale_aggregation"]
