"""Photos and captions in one file: parquet, `datasets` folders and WebDataset shards, as sources of photos."""
