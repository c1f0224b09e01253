"""N handlers at work: one pool, one policy for late, dead and hung ones. It knows frames, and no client's socket."""
