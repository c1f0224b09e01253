"""Reviews in, word ids out."""
