"""Messages as bytes: framing, headers, tensors, JSON bodies, endpoints. No I/O and no model."""
