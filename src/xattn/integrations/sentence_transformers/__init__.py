"""Late-interaction models of sentence-transformers: scored and constrained by their attention, and measured by it."""
