"""What a person looks at: pictures of attention and tables of numbers."""
