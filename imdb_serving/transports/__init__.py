"""How bytes travel between a client and a handler. No model."""
