"""Pictures of attention, and the pages that they are laid out on."""
