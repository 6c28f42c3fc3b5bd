"""What words attend to, as something to look at: a page of its own, and a notebook's widget of the same module."""
