"""RPC: typed messages in frames of bytes (wire), and ZeroMQ, which carries them. No model, and no HTTP."""
