"""Pictures in and out: decoding, preprocessing, labeled sets, composed scenes, palettes and overlays.

NumPy and Pillow only, so that the light runner can use all of it.
"""
