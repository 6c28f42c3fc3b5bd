"""The embedded data set: rendered pictures of shapes with captions, proposal boxes and word-to-box truth."""
