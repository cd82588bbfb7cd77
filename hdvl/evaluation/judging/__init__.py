"""Language models that judge answers: how they are asked, what is kept of it, and how replies are read."""
