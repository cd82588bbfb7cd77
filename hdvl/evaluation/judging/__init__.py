"""Language models as judges: their queries, stored replies, and parsers of replies."""
