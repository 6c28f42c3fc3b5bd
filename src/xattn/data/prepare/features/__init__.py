"""From an image to regions and their features: images, windows, backbones and pooling over boxes."""
