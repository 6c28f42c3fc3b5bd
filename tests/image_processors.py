"""Image processors of transformers that take Pillow's images, by whatever name a version has them."""


def image_processor_class(kind):
    """That of `kind`, such as `CLIP`: its name ends in `Pil` in newer versions, and in 5.0 in nothing."""
    import transformers

    return getattr(transformers, f"{kind}ImageProcessorPil", None) or getattr(transformers, f"{kind}ImageProcessor")
