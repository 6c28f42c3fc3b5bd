"""A local web page on which people search an index of photos (`xattn serve`)."""
