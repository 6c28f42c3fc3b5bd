"""The field's real data sources, one file each: captions and truth become a captions file, features become a data folder."""
