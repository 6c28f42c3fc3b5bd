"""An index of one's own photos that grows, and is searched with sentences (`xattn index`, `xattn search INDEX`)."""
