"""Self-attention inside shifted windows."""

from seqca.reference.window_attention import relative_position_index, window_attention

__all__ = ["relative_position_index", "window_attention"]
