"""Images for a sentence."""
