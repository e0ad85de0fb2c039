"""matar_tf: train once for many bit-widths, retarget by search."""
