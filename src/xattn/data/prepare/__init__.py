"""Makes data folders: from photos with captions, from rendered scenes, and from the field's own files."""
